"""A prompt that reaches into the target; what it reveals is not scored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..benchmark.attack import Counts, EncodedMemory, Probe, Prompting, Tools


@dataclass(frozen=True)
class LongerPrefix(Prompting):
    """The opening and the first n tokens of the target; the tokens that follow are scored."""

    extra: Counts = (4, 8, 16, 32)

    def probes(self, memory: EncodedMemory, tools: Tools) -> Iterable[Probe]:
        fitting = [n for n in self.extra if memory.opening + n < len(memory.row)]
        cuts = tuple(memory.opening + n for n in fitting)
        yield Probe(memory.id, (), memory.row, 0, cuts, tuple(f"+{n}" for n in fitting), start=0)
