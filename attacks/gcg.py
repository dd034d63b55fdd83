"""Greedy coordinate gradient: a prompt of free tokens that makes the model say the text (Zou et al. 2023, arXiv 2307.15043)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..benchmark.attack import (
    Answer,
    Budget,
    Count,
    EncodedMemory,
    Probe,
    Reader,
    Searching,
    Subject,
    Wanted,
    Workshop,
    elicit,
    last_tokens,
)


@dataclass(frozen=True)
class GCG(Searching):
    """Optimises a prompt, beginning from the end of the opening, to elicit the target's beginning; the whole target is then scored.

    The prompt stands in the opening's place. No candidate may hold five ids in a row of the target, and a match that
    stands in the prompt is copying and counts as 0. The defaults are for two CPU cores; the paper takes 500 steps of
    512 candidates.
    """

    length: Count = 16  # free tokens
    elicited: Count = 24  # tokens of the target whose loss is lowered
    steps: Count = 24
    candidates: Count = 12  # prompts tried in a step
    top: Count = 64  # replacements considered at a place

    access = "white-box"
    tier = 3
    kinds = ("passage",)  # an optimised prompt makes any model say a short answer

    def search(self, subject: Subject, memories: Sequence[EncodedMemory], tools: Workshop) -> Iterable[Answer]:
        wanted = [Wanted(last_tokens(m, self.length), m.target[: self.elicited], tools.rng("gcg", m.id), secret=m.target) for m in memories]
        found = elicit(subject, wanted, Budget(self.steps, self.candidates, self.top))
        probes = [Probe(m.id, f.prompt, m.target, m.opening) for m, f in zip(memories, found, strict=True)]
        for m, p, (matched,) in zip(memories, probes, Reader(subject, "fp32").read(probes), strict=True):
            yield Answer(m.id, f"free{self.length}", matched, len(m.target), tools.decode(p.prompt), m.opening, ids=p.prompt)
