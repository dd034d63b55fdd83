"""Token log-probabilities and their sums: the pieces losses are made of. Pad, prompt and -100 positions never count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.types import Row
from ..models.logits import hidden_states, own_logits, route
from .batches import Group, Term, Terms, collate

LOGITS = {"cpu": 2**21, "cuda": 2**26}  # so many are held at a time: they stay in a CPU's cache, and a GPU wants large products


def nll_sum(model: Any, group: Group) -> Tensor:
    """Sum over scored tokens of -log p(token | tokens before), fused with the head so that no logits are kept where it alone makes them."""
    head = model.get_output_embeddings()
    if not route(model).plain or not isinstance(head, nn.Linear):  # two models combined at the logits have no linear one
        return token_nll(model, group)[0].sum()
    states = at_scored(hidden_states(model, group.ids), group)
    return head_nll(states, head.weight, head.bias, group.scored)


def head_nll(states: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """Sum of -log softmax(states W^T + b)[label] over states [N, H], for a head W [V, H] and b [V] or None, and labels [N]."""
    return _HeadNLL.apply(states, weight, bias, labels)  # pyright: ignore[reportReturnType]


class _HeadNLL(torch.autograd.Function):
    """Sum of -log softmax(states W^T + b)[label], and its gradient made in the same pass, a chunk of positions at a time.

    States [N, H], weight [V, H], bias [V] or None, labels [N]. As under autocast, products are in its dtype; the softmax,
    the loss and what is added up over chunks are in fp32 at least. d loss / d logits = softmax - onehot, so nothing of
    size [N, V] outlives a chunk.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
        kind = states.device.type
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        wide = torch.promote_types(low, torch.float32)
        wanted, total = any(ctx.needs_input_grad), states.new_zeros((), dtype=wide)
        grads = torch.empty_like(states), torch.zeros_like(weight, dtype=wide), torch.zeros_like(weight[:, 0], dtype=wide)
        chunk = _positions(weight, kind)
        with torch.autocast(kind, enabled=False):
            small = weight.to(low)
            for i in range(0, len(states), chunk):
                part, truth = states[i : i + chunk].to(low), labels[i : i + chunk, None]
                logits = F.linear(part, small) if bias is None else F.linear(part, small).to(wide) + bias
                log_p = F.log_softmax(logits, -1, dtype=wide)
                total -= log_p.gather(1, truth).sum()
                if wanted:
                    rest = log_p.exp_().scatter_add_(1, truth, log_p.new_full(truth.shape, -1.0))
                    grads[2].add_(rest.sum(0)) if bias is not None else None
                    rest = rest.to(low)
                    grads[0][i : i + chunk] = rest @ small
                    grads[1].add_(rest.T @ part)
        if wanted:
            ctx.save_for_backward(*grads)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad
        return (*(g * upstream[0].to(g.dtype) if w else None for g, w in zip(ctx.saved_tensors, wanted, strict=False)), None)


def _positions(weight: Tensor, kind: str) -> int:
    """How many positions a chunk has, weight [V, H]: as many as `LOGITS` allows, on a CPU at least half a width.

    Every chunk is added to the whole gradient of the weight, V x H numbers read and written. Of a large vocabulary few positions fit
    a CPU's cache, and that takes longer than their logits, cached or not. (On a GPU it was not measured.)
    """
    least = weight.shape[1] // 2 if kind == "cpu" else 1
    return max(1, least, LOGITS.get(kind, 2**21) // len(weight))


def scored_logits(model: Any, group: Group) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [N, V] at the positions that predict a scored token, their labels [N], and the row [N] each belongs to."""
    if route(model).plain:
        logits = model.get_output_embeddings()(at_scored(hidden_states(model, group.ids), group))
    else:  # in training too: ZeRO-3 knows a forward pass as it is
        logits = at_scored(own_logits(model, group.ids), group)
    return logits, group.scored, group.places // group.ids.shape[1]


def at_scored(values: Tensor, group: Group) -> Tensor:
    """Of values [B, T, D] those [N, D] where a scored token is predicted."""
    return values.flatten(0, 1).index_select(0, group.places)


def token_nll(model: Any, group: Group) -> tuple[Tensor, Tensor]:
    """Per scored token: -log p [N], and the row [N] each belongs to."""
    logits, labels, row = scored_logits(model, group)
    return F.cross_entropy(logits.float(), labels, reduction="none"), row


def sequence_nll(model: Any, group: Group) -> Tensor:
    """Per row the sum of -log p over its scored tokens [B]."""
    return row_sums(*token_nll(model, group), len(group.ids))


def row_sums(values: Tensor, row: Tensor, rows: int) -> Tensor:
    """Sums [rows] of values [N] by the row [N] each belongs to, on a GPU too in an order that is always the same."""
    return values.new_zeros(rows).index_add(0, row, values) if values.device.type == "cpu" else ordered_sums(values, row, rows)


def ordered_sums(values: Tensor, row: Tensor, rows: int) -> Tensor:
    """`row_sums` without `index_add`, which a GPU does in whatever order its threads come."""
    mine = row == torch.arange(rows, device=row.device)[:, None]
    return torch.where(mine, values, 0).sum(1)


@torch.no_grad()
def nll_of_rows(model: Any, rows: Sequence[Row]) -> list[float]:
    """Sum of -log p over each row's scored tokens."""
    device = next(model.parameters()).device
    return [n for i in range(0, len(rows), 16) for n in sequence_nll(model, collate(rows[i : i + 16], slice(None), device)).tolist()]


def language_model_loss(model: Any, groups: dict[str, Group]) -> Terms:
    """Mean negative log-likelihood per scored token of the group "text"."""
    return {"nll": Term(nll_sum(model, groups["text"]), "tokens", "text")}
