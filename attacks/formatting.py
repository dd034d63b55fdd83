"""The opening in other letters and spaces, and with slips of the hand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..benchmark.attack import WORD, Count, Counts, EncodedMemory, Probe, Prompting, Questions, Tools, fits


@dataclass(frozen=True)
class Formatting(Prompting):
    """The opening in another case, with other white space, with typing slips, or without its first token; the same target follows."""

    wrap: Count = 4  # words on a line, where line breaks are put in
    slips: Counts = (1, 2, 4)  # words with one typing slip each
    tries: Count = 4  # draws for each number of slips

    tier = 1
    asks: ClassVar[Questions] = {"": "edit"}

    def probes(self, memory: EncodedMemory, tools: Tools) -> Iterable[Probe]:
        opening = memory.memory.opening
        written: dict[str, str] = {}
        for variant, text in self._texts(opening, memory.id, tools):
            written.setdefault(text, variant)
        for text, variant in written.items():
            prompt = tools.encode(text)
            if text != opening and tools.round_trips(text) and fits(prompt, memory, tools):
                yield Probe(memory.id, prompt, memory.target, memory.opening, (0,), (variant,))
        if memory.opening > 1:
            yield Probe(memory.id, memory.row[1 : memory.opening], memory.target, memory.opening, (0,), ("clipped",), start=1)

    def _texts(self, opening: str, memory: str, tools: Tools) -> Iterator[tuple[str, str]]:
        title = re.sub(r"(?<!['’\w])\w", lambda m: m.group().upper(), opening.lower())
        for text in (opening.lower(), opening.upper(), title):
            yield "case", text
        words = opening.split(" ")
        lines = [" ".join(words[i : i + self.wrap]) for i in range(0, len(words), self.wrap)]
        for text in ("  ".join(words), "\n".join(lines), "\n" + opening, "    " + opening):
            yield "space", text
        long = [m for m in WORD.finditer(opening) if len(m.group()) >= 4 and m.group().isalpha()]
        for n in self.slips:
            for attempt in range(self.tries if len(long) >= n else 0):
                random = tools.rng("formatting", memory, n, attempt)
                changed = opening
                for i in sorted(random.choice(len(long), n, replace=False), reverse=True):
                    changed = changed[: long[i].start()] + slip(long[i].group(), random) + changed[long[i].end() :]
                yield f"typo{n}", changed


def slip(word: str, random: np.random.Generator) -> str:
    """A word of at least two letters with two neighbours swapped, or one letter dropped or doubled; never the first."""
    kind = random.choice(["swap", "drop", "double"])
    swaps = [k for k in range(1, len(word) - 1) if word[k] != word[k + 1]]
    if kind == "swap" and swaps:
        at = random.choice(swaps)
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    at = random.integers(1, len(word))
    return word[:at] + (word[at + 1 :] if kind == "drop" else word[at] + word[at:])
