"""Interchange of states and of components between forward passes, and what becomes of memorised tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..common.types import EncodedMemory
from ..models.logits import hidden_states, route
from ._stream import COMPONENTS, Part, Stream, giving, outputs, padded

TOKENS = 8192  # in one forward pass
LOGITS = 2**26  # held at a time


@torch.no_grad()
def dependence(stream: Stream, row: Sequence[int], opening: int, tokens: int, sources: Tensor) -> Tensor:
    """Share [layers, opening, tokens] of sources with which the model's greedy token is another than the one in `row`.

    `row` is the opening and the tokens that follow it, `sources` are ids [S, at least opening] of other prompts. One state at a time,
    that of one layer at one place of the opening, is replaced by that of a source at the same layer and place. The true tokens are read
    all along, so one forward pass answers for every token. Layer 0 is the embeddings, the last is what the last block reads.
    """
    ids = torch.tensor([row[: opening + tokens - 1]], device=stream.device)
    truth = torch.tensor(row[opening : opening + tokens], device=stream.device)
    own = stream.read(ids)
    others = stream.read(sources[:, :opening].to(stream.device))
    pairs = [(place, source) for place in range(opening) for source in range(len(sources))]
    size = max(1, min(TOKENS // ids.shape[1], LOGITS // (tokens * route(stream.model).vocabulary)))
    changed = torch.zeros(len(stream.blocks), opening, tokens, device=stream.device)
    for layer in range(len(stream.blocks)):
        for start in range(0, len(pairs), size):
            place, source = torch.tensor(pairs[start : start + size], device=stream.device).T
            states = own[layer].repeat(len(place), 1, 1)
            states[torch.arange(len(place)), place] = others[layer][source, place]
            read = stream.go_on(ids.expand(len(place), -1), layer, states)[:, opening - 1 :]
            wrong = (stream.logits(read).argmax(-1) != truth).float()
            changed[layer].index_add_(0, place, wrong)
    return (changed / len(sources)).cpu()


@torch.no_grad()
def lengths(stream: Stream, memories: Sequence[EncodedMemory], bos: tuple[int, ...]) -> list[int]:
    """Tokens of each target that the model says right before its first mistake: what greedy decoding from the opening would match."""
    found = []
    rows, size = [bos + m.row[: m.opening + len(m.target)] for m in memories], max(1, TOKENS // max(len(m.row) for m in memories))
    for start in range(0, len(rows), size):
        found += _matched(stream, rows[start : start + size], [len(bos) + m.opening for m in memories[start : start + size]])
    return found


@torch.no_grad()
def swapped(
    stream: Stream, mine: Sequence[Part], other: Stream, theirs: Sequence[Part], memories: Sequence[EncodedMemory], bos: tuple[int, ...]
) -> list[tuple[str, int | None, list[int]]]:
    """(component, layer or None for all, lengths of the memories) with what the component of the other model gives in place of one's own.

    Both models read the same true tokens. The component "both" is attention and MLP together.
    """
    chosen = {"attention": ("attention",), "mlp": ("mlp",), "both": COMPONENTS}
    layers = [*range(len(mine)), None]
    found: dict[tuple[str, int | None], list[int]] = {(c, layer): [] for c in chosen for layer in layers}
    size = max(1, TOKENS // max(len(m.row) for m in memories))
    for start in range(0, len(memories), size):
        part = memories[start : start + size]
        rows, openings = [bos + m.row[: m.opening + len(m.target)] for m in part], [len(bos) + m.opening for m in part]
        given = outputs(other, theirs, padded(rows, other.device))
        for (component, layer), told in found.items():
            places = range(len(mine)) if layer is None else [layer]
            modules = [getattr(mine[n], c) for n in places for c in chosen[component]]
            with giving(modules, [given[c][n] for n in places for c in chosen[component]]):
                told += _matched(stream, rows, openings)
    return [(component, layer, told) for (component, layer), told in found.items()]


def _matched(stream: Stream, rows: Sequence[tuple[int, ...]], openings: Sequence[int]) -> list[int]:
    states, found = hidden_states(stream.model, padded(rows, stream.device)), []
    for i, (row, opening) in enumerate(zip(rows, openings, strict=True)):
        said = stream.logits(states[i : i + 1, opening - 1 : len(row) - 1]).argmax(-1)[0].cpu()
        found.append(int((said == torch.tensor(row[opening:])).long().cumprod(0).sum()))
    return found
