"""Questions that reach the answer through another fact (Patil et al. 2023, arXiv 2309.17410; Jin et al. 2024, arXiv 2406.10890)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..benchmark.attack import Memory, OtherPrompts


@dataclass(frozen=True)
class TwoHop(OtherPrompts):
    """Questions that need a second fact to reach the same answer, as the set gives them (`two_hop`)."""

    def prompts(self, memory: Memory) -> Iterable[str]:
        return memory.two_hop
