"""One direction removed from the residual stream (Arditi et al. 2024, arXiv 2406.11717; Łucki et al. 2024, arXiv 2409.18025)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..benchmark.attack import (
    IGNORED,
    Changed,
    Count,
    Finding,
    Row,
    Subject,
    Tampering,
    UserError,
    Workshop,
    blocks,
    collate,
    hidden_states,
    replaced,
)

ROWS = 32  # in one forward pass


@dataclass(frozen=True)
class AblateDirection(Tampering):
    """Remove from all that writes to the residual stream the direction that tells forget texts from ordinary text.

    After a block, that is the difference of the mean states of one half of the forget texts and of ordinary text; a
    text's state is the mean over its tokens but the first. Embeddings and the output matrices of attention
    and MLPs are projected, biases too; the other half is read. The finding `direction_strength` is how far a
    text lies along the direction that the others give, from the mean of ordinary text in its standard deviations: the
    largest over the layers.
    """

    layers: tuple[Count, ...] = ()  # after which blocks, from 1; empty: `most` of them, evenly spaced
    most: Count = 4
    ordinary: Count = 64  # rows of ordinary text

    learns = True

    def tamper(self, subject: Subject, relearned: Sequence[Row], tools: Workshop) -> Iterable[Changed | Finding]:
        if not relearned:
            return
        ordinary = [tools.retain(k) for k in range(self.ordinary)]
        chosen = self.chosen(subject.model)
        forget, plain = (mean_states(subject, rows) for rows in (relearned, ordinary))
        for layer in chosen:
            direction = unit(forget[layer - 1].mean(0) - plain[layer - 1].mean(0))
            yield Changed(ablated(subject, direction, relearned[0]), f"layer{layer}")
        if len(relearned) > 1:
            strongest = torch.stack([strength(forget[layer - 1], plain[layer - 1]) for layer in chosen]).amax(0)
            for row, value in zip(relearned, strongest.tolist(), strict=True):
                yield Finding(row.name, "direction_strength", value)

    def chosen(self, model: Any) -> list[int]:
        """After which blocks a direction is taken, from 1."""
        count = len(blocks(model))
        if bad := [n for n in self.layers if not 1 <= n <= count]:
            raise UserError(f"ablate_direction.layers holds {bad}; this model has blocks 1 to {count}.")
        spaced = torch.linspace(1, count, min(self.most, count)).round().int().tolist()
        return list(self.layers) or spaced


@torch.no_grad()
def mean_states(subject: Subject, rows: Sequence[Row]) -> Tensor:
    """The mean state [blocks, rows, H] after each block over the tokens of a row but the first, in fp32 on the CPU."""
    where = next(subject.model.parameters()).device
    out: list[list[Tensor]] = [[] for _ in blocks(subject.model)]
    for start in range(0, len(rows), ROWS):
        group = collate([Row(r.ids) for r in rows[start : start + ROWS]], slice(None), where)
        counted = (group.labels != IGNORED).float()[..., None]

        def keep(means: list[Tensor], states: Tensor, counted: Tensor = counted) -> None:
            means.append(((states * counted).sum(1) / counted.sum(1)).cpu())

        with each_block(subject.model, lambda n, states: keep(out[n], states)):
            hidden_states(subject.model, group.ids)
    return torch.stack([torch.cat(means) for means in out])


@contextmanager
def each_block(model: Any, see: Callable[[int, Tensor], Any]) -> Iterator[None]:
    """While this lasts, `see(n, states [B, T, H])` is called after the n-th block (from 0)."""

    def hook(number: int) -> Callable[..., None]:
        return lambda _, __, out: see(number, out[0] if isinstance(out, tuple) else out)

    handles = [block.register_forward_hook(hook(n)) for n, block in enumerate(blocks(model))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def strength(forget: Tensor, plain: Tensor) -> Tensor:
    """How far each forget text [n, H] lies along the direction given by the others, in standard deviations of ordinary text.

    The direction comes from one half of the ordinary texts, mean and deviation from the other.
    """
    basis, yardstick = plain[::2], plain[1::2]
    others = (forget.sum(0) - forget) / (len(forget) - 1)
    direction = unit(others - basis.mean(0))  # [n, H], one for each text
    measured = yardstick @ direction.T  # [ordinary, n]
    return ((forget * direction).sum(1) - measured.mean(0)) / measured.std(0)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


@torch.no_grad()
def ablated(subject: Subject, direction: Tensor, row: Row) -> Subject:
    """The subject with a unit direction [H] projected out of all that writes to the residual stream; tried on a row."""
    d = direction.to(next(subject.model.parameters()).device)
    edits = {}
    for name, m in writers(subject.model).items():
        outputs_first = isinstance(m, nn.Linear)
        weight: Tensor = m.weight  # type: ignore[assignment]
        edits[f"{name}.weight"] = weight - torch.outer(d, d @ weight) if outputs_first else weight - torch.outer(weight @ d, d)
        if (bias := getattr(m, "bias", None)) is not None:
            edits[f"{name}.bias"] = bias - d * (d @ bias)
    out = replaced(subject, edits)
    shares: list[float] = []
    ids = torch.tensor([row.ids], device=d.device)
    with each_block(out.model, lambda _, states: shares.append(float(((states @ d).abs() / states.norm(dim=-1)).max()))):
        hidden_states(out.model, ids)
    if (left := max(shares)) > 1e-3:
        raise UserError(
            f"ablate_direction: a share of {left:.2g} of a state of {type(subject.model).__name__} lies along the direction: something "
            "else than embeddings and output matrices writes to the residual stream. Leave this attack out for this architecture."
        )
    return out


def writers(model: Any) -> dict[str, nn.Module]:
    """What writes to the residual stream: embeddings, and the last linear map of its width in every part of a block."""
    width = model.get_input_embeddings().weight.shape[1]
    found: set[nn.Module] = {m for m in model.base_model.modules() if isinstance(m, nn.Embedding) and m.embedding_dim == width}
    for part in (part for block in blocks(model) for part in block.children()):
        maps = [m for m in part.modules() if isinstance(m, nn.Linear | Conv1D) and _outputs(m) == width]
        found.update(maps[-1:])
    return {name: m for name, m in model.named_modules() if m in found}


def _outputs(m: nn.Linear | Conv1D) -> int:
    return m.out_features if isinstance(m, nn.Linear) else m.nf
