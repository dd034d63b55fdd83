"""Reworded openings, written by people for each memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from ..benchmark.attack import SOME, CountOrZero, EncodedMemory, Probe, Rewording, Tools, fits


@dataclass(frozen=True)
class Paraphrase(Rewording):
    """The authored paraphrases of the opening, alone and followed by the true last b tokens of the opening."""

    thread: Annotated[tuple[CountOrZero, ...], SOME] = (0, 4, 8)  # a small model needs a thread to pick up

    def texts(self, memory: EncodedMemory, tools: Tools) -> Iterable[tuple[str, str]]:
        return (("", text) for text in memory.memory.paraphrases)

    def probes(self, memory: EncodedMemory, tools: Tools) -> Iterable[Probe]:
        for _, text in self.kept(memory, tools):
            for b in self.thread:
                prompt = tools.encode(text) + memory.row[max(0, memory.opening - b) : memory.opening]
                if fits(prompt, memory, tools):
                    yield Probe(memory.id, prompt, memory.target, memory.opening, (0,), (f"+{b}",))
