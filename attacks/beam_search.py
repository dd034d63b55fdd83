"""Beam search for the target after the exact opening (Carlini et al. 2022, arXiv 2202.07646)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..benchmark.attack import (
    HORIZON,
    Answer,
    Count,
    Counts,
    Decoding,
    EncodedMemory,
    Finding,
    Reader,
    Searching,
    Subject,
    TokenReading,
    Workshop,
)


@dataclass(frozen=True)
class BeamSearch(Searching):
    """Beam search after the exact opening: does a beam say the text?

    The matched length is the greatest n for which a search of n tokens returns the first n tokens of the target as one
    of its beams. All that is returned counts, not only the best. A target that is out of the beam once never comes
    back, so n is the number of steps that it stays in. Two bounds from the token reading are exact, and a search is made
    only where they differ: a token that `width` others outrank takes the target out; while the target's probability
    exceeds 1 / (width + 1), fewer than `width` other texts can be likelier, and it stays in. The finding
    `screened_WIDTH` is 1 where no search was needed.
    """

    widths: Counts = (4, 16)
    length: Count = HORIZON  # tokens

    access = "grey-box"
    claims = "beam"

    def search(self, subject: Subject, memories: Sequence[EncodedMemory], tools: Workshop) -> Iterable[Answer | Finding]:
        unread = [m for m in memories if m.id not in tools.tokens]
        tokens = {**tools.tokens, **(_read(subject, unread) if unread else {})}
        for m in memories:
            target = m.target[: self.length]
            for width in self.widths:
                least, most = bounds(tokens[m.id], m.opening, len(target), width)
                matched = least if least == most else steps_in_beam(subject, m.row[: m.opening], target[:most], width)
                yield Answer(m.id, f"beam{width}", matched, len(target), m.memory.opening, m.opening, start=0, width=width)
                yield Finding(m.id, f"screened_{width}", float(least == most))


def bounds(tokens: TokenReading, opening: int, length: int, width: int) -> tuple[int, int]:
    """For how many steps the target stays in the beam: at least, and at most."""
    target = slice(opening, opening + length)
    outranked = np.flatnonzero(tokens.rank[target] >= width)
    most = int(outranked[0]) if len(outranked) else length
    likely = np.cumsum(tokens.log_probability[target].astype(float)) > -np.log(width + 1)
    return min(int(likely.sum()), most), most


def steps_in_beam(subject: Subject, prompt: tuple[int, ...], target: tuple[int, ...], width: int) -> int:
    """For how many steps of a beam search the beginning of `target` is among the beams; equal scores go to the earlier beam."""
    beams = Decoding(subject, prompt)
    scores = torch.zeros(1, 1, dtype=torch.double, device=beams.where)
    true = 0  # the beam that is the target so far
    for step, wanted in enumerate(target):
        best, ids = beams.last.double().log_softmax(-1).topk(min(width, beams.last.shape[-1]), dim=-1)
        order = (scores + best).flatten().sort(descending=True, stable=True)
        kept = order.indices[:width]
        parents, ids = kept // best.shape[1], ids.flatten()[kept]
        hits = ((parents == true) & (ids == wanted)).nonzero()
        if not len(hits):
            return step
        true = int(hits[0])
        if step + 1 < len(target):
            scores = order.values[:width, None]
            beams.choose(parents)
            beams.read(ids[:, None])
    return len(target)


def _read(subject: Subject, memories: Sequence[EncodedMemory]) -> dict[str, TokenReading]:
    reader = Reader(subject, "fp32")
    reader.read([], memories)
    return reader.readings
