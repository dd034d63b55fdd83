"""Token log-probabilities and their sums: the pieces losses are made of. Pad, prompt and -100 positions never count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .training import IGNORED, Group, Term, Terms, collate
from .types import Row


def hidden_states(model: Any, ids: Tensor) -> Tensor:
    """The states [B, T, H] that the language-model head reads. Right padding needs no mask under a causal model."""
    return model.base_model(input_ids=ids, use_cache=False).last_hidden_state


def nll_sum(model: Any, group: Group) -> Tensor:
    """Sum over scored tokens of -log p(token | tokens before), fused with the head so that no logits are kept."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):  # two models combined at the logits
        return token_nll(model, group)[0].sum()
    states, labels = hidden_states(model, group.ids)[:, :-1], group.labels[:, 1:]
    return F.linear_cross_entropy(
        states.reshape(-1, states.shape[-1]), head.weight, labels.reshape(-1), linear_bias=head.bias, reduction="sum", ignore_index=IGNORED
    )


def scored_logits(model: Any, group: Group) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [N, V] at the positions that predict a scored token, their labels [N], and the row [N] each belongs to."""
    scored = group.labels[:, 1:] != IGNORED
    states = hidden_states(model, group.ids)[:, :-1][scored]
    return model.get_output_embeddings()(states), group.labels[:, 1:][scored], scored.nonzero()[:, 0]


def token_nll(model: Any, group: Group) -> tuple[Tensor, Tensor]:
    """Per scored token: -log p [N], and the row [N] each belongs to."""
    logits, labels, row = scored_logits(model, group)
    return F.cross_entropy(logits.float(), labels, reduction="none"), row


def sequence_nll(model: Any, group: Group) -> Tensor:
    """Per row the sum of -log p over its scored tokens [B]."""
    nll, row = token_nll(model, group)
    return torch.zeros(len(group.ids), dtype=nll.dtype, device=nll.device).index_add(0, row, nll)


@torch.no_grad()
def nll_of_rows(model: Any, rows: Sequence[Row]) -> list[float]:
    """Sum of -log p over each row's scored tokens."""
    device = next(model.parameters()).device
    return [n for i in range(0, len(rows), 16) for n in sequence_nll(model, collate(rows[i : i + 16], slice(None), device)).tolist()]


def language_model_loss(model: Any, groups: dict[str, Group]) -> Terms:
    """Mean negative log-likelihood per scored token of the group "text"."""
    return {"nll": Term(nll_sum(model, groups["text"]), "tokens", "text")}
