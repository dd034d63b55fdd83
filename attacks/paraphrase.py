"""Reworded openings, written by people for each memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..benchmark.attack import EncodedMemory, Probe, Prompting, Tools


@dataclass(frozen=True)
class Paraphrase(Prompting):
    """The authored paraphrases of the opening, alone and followed by the true last b tokens of the opening."""

    thread: tuple[int, ...] = (0, 4, 8)  # a small model needs a thread to pick up

    tier = 1

    def probes(self, memory: EncodedMemory, tools: Tools) -> Iterable[Probe]:
        for text in memory.memory.paraphrases:
            for b in self.thread:
                tail = memory.row[max(0, memory.opening - b) : memory.opening]
                yield Probe(memory.id, tools.encode(text) + tail, memory.target, memory.opening, (0,), (f"+{b}",))
