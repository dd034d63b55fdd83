"""The beginning of the memory as the prompt: the opening, and its first k tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ..benchmark.attack import Counts, EncodedMemory, Probe, Prompting, Questions, Tools


@dataclass(frozen=True)
class Prefix(Prompting):
    """The exact opening, and partial prefixes of k tokens (discoverable memorisation; Carlini et al. 2022, arXiv 2202.07646)."""

    lengths: Counts = (8, 16, 32, 64)

    everyone = True  # keep memories too: what they lose is collateral
    asks: ClassVar[Questions] = {"opening": "exact", "": "window"}

    def probes(self, memory: EncodedMemory, tools: Tools) -> Iterable[Probe]:
        fitting = [k for k in self.lengths if k < len(memory.row)]
        cuts = (memory.opening, *fitting)
        variants = ("opening", *(f"k{k}" for k in fitting))
        yield Probe(memory.id, (), memory.row, 0, cuts, variants, start=0)
