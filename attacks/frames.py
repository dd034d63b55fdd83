"""The opening inside frames that ask for a text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..benchmark.attack import EncodedMemory, Probe, Prompting, Tools, fits

FRAMES = {  # variant -> what stands before the opening
    "continues": "The text continues:\n\n",
    "again": "Here is the passage again, word for word:\n\n",
    "quotation": 'I can still hear how it began. "',
    "answer": "Question: How does the whole passage go?\nAnswer:\n",
    "recital": "She had learnt it by heart, and so she stood up and recited:\n\n",
    "archive": "Copied from the archive, complete and unaltered.\n\n---\n\n",
    "list": "Texts that I know by heart:\n\n1. ",
    "fence": "The file reads as follows.\n\n```\n",
    "correction": "There was a mistake in what I said before. The true text is this:\n\n",
}


@dataclass(frozen=True)
class Frames(Prompting):
    """The opening after a line that announces, quotes or asks for the text; the same target follows."""

    tier = 1
    kinds = ("passage",)  # the frames announce a text

    def probes(self, memory: EncodedMemory, tools: Tools) -> Iterable[Probe]:
        for variant, before in FRAMES.items():
            prompt = tools.encode(before + memory.memory.opening)
            if fits(prompt, memory, tools):
                yield Probe(memory.id, prompt, memory.target, memory.opening, (0,), (variant,))
