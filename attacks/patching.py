"""The unlearning depth score by activation patching (Lee, Kim & Jo 2026, arXiv 2605.24614)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..benchmark.attack import (
    EncodedMemory,
    Finding,
    NotNegative,
    Searching,
    Subject,
    UserError,
    Workshop,
    blocks,
    hidden_states,
    logits_of,
)

ROWS = 64  # in one forward pass


@dataclass(frozen=True)
class Patching(Searching):
    """Unlearning depth: how much of what tells the held model from the retrained twin is gone, 0 (nothing) to 1 (all).

    While the held model reads the memory, the states after one layer at the places that predict the target are replaced
    by those of the retrained twin (d1) or of the model under test (d2); d is the drop of the target's mean
    log-probability. Depth is the sum over layers with d1 > `threshold` of d1 clip(d2 / d1, 0, 1), over the sum of d1.
    A memory without such a layer is not scored. Needs the held model and the twin, so it is a diagnostic.
    """

    threshold: NotNegative = 0.05  # nats per token

    access = "white-box"
    tier = 2
    diagnostic = True
    compares = True

    def search(self, subject: Subject, memories: Sequence[EncodedMemory], tools: Workshop) -> Iterable[Finding]:
        if tools.held is None or tools.twin is None:
            raise UserError("The attack patching compares with the held model and the retrained twin; this run gives it neither.")
        for start in range(0, len(memories), ROWS):
            part = memories[start : start + ROWS]
            d1 = drops(tools.held, tools.twin, part)
            d2 = drops(tools.held, subject, part)
            for m, twin, mine in zip(part, d1, d2, strict=True):
                if (counted := twin > self.threshold).any():
                    gone = twin[counted] * np.clip(mine[counted] / twin[counted], 0, 1)
                    yield Finding(m.id, "depth", float(gone.sum() / twin[counted].sum()))


@torch.no_grad()
def drops(held: Subject, source: Subject, memories: Sequence[EncodedMemory]) -> np.ndarray:
    """Drop [memories, layers] of the target's mean log-probability under `held` with the states of `source` after each layer."""
    where = next(held.model.parameters()).device
    rows = [held.with_bos(m.row) for m in memories]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long, device=where)
    predicts = torch.zeros_like(ids, dtype=torch.bool)  # the places whose states predict the target
    for i, (m, row) in enumerate(zip(memories, rows, strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        first = len(row) - len(m.row) + m.opening - 1
        predicts[i, first : first + len(m.target)] = True
    states: list[Tensor] = []
    with each_block(source.model, lambda _, out: states.append(out[predicts.to(out.device)].to(where)) or out):
        hidden_states(source.model, ids.to(next(source.model.parameters()).device))

    def target_log_probability() -> Tensor:
        found = hidden_states(held.model, ids)[predicts]
        truth = ids.roll(-1, 1)[predicts]
        nll = F.cross_entropy(logits_of(held.model, found).float(), truth, reduction="none")
        total = torch.zeros(len(rows), device=where).index_add(0, predicts.nonzero()[:, 0], -nll)
        return total / predicts.sum(1)

    whole = target_log_probability()
    out = []
    for layer, put in enumerate(states):

        def swap(number: int, out: Tensor, layer: int = layer, put: Tensor = put) -> Tensor:
            return out.masked_scatter(predicts[..., None], put) if number == layer else out

        with each_block(held.model, swap):
            out.append(whole - target_log_probability())
    return torch.stack(out, 1).double().cpu().numpy()


@contextmanager
def each_block(model: Any, change: Any):
    """Pass the states [B, T, H] after the n-th block through `change(n, states)`, while this lasts."""

    def hook(number: int):
        def swap(_: Any, __: Any, out: Any) -> Any:
            return (change(number, out[0]), *out[1:]) if isinstance(out, tuple) else change(number, out)

        return swap

    handles = [block.register_forward_hook(hook(n)) for n, block in enumerate(blocks(model))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
