"""A prompt that reaches into the target; what it reveals is not scored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..benchmark.attack import EncodedMemory, Probe, Prompting, Tools


@dataclass(frozen=True)
class LongerPrefix(Prompting):
    """The opening and the first n tokens of the target; the tokens that follow are scored."""

    extra: tuple[int, ...] = (4, 8, 16, 32)

    def probes(self, memory: EncodedMemory, tools: Tools) -> Iterable[Probe]:
        cuts = tuple(memory.opening + n for n in self.extra if memory.opening + n < len(memory.row))
        yield Probe(memory.id, (), memory.row, 0, cuts, tuple(f"+{n}" for n in self.extra[: len(cuts)]), start=0)
