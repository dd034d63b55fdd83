"""Prompts from anywhere in the memory (Huang et al. 2024, arXiv 2407.17817)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ..benchmark.attack import HORIZON, Count, Counts, EncodedMemory, Probe, Prompting, Questions, Tools


@dataclass(frozen=True)
class ShiftedWindow(Prompting):
    """A window of k tokens from every start inside the memory; the tokens that follow it are scored."""

    lengths: Counts = (8, 16, 32, 64)
    stride: Count = 1

    asks: ClassVar[Questions] = {"": "window"}

    def probes(self, memory: EncodedMemory, tools: Tools) -> Iterable[Probe]:
        first = min(self.lengths)
        for start in range(1, len(memory.row) - first, self.stride):
            fitting = [k for k in self.lengths if start + k < len(memory.row)]
            end = start + max(fitting) + HORIZON
            window, target = memory.row[start : start + first], memory.row[start + first : end]
            cuts = tuple(k - first for k in fitting)
            yield Probe(memory.id, window, target, start + first, cuts, tuple(f"k{k}" for k in fitting), start=start)
