"""The opening with words replaced by synonyms, from the project's own table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..benchmark.attack import CONFIGS, WORD, EncodedMemory, Options, Questions, Substitution, Tools, synonyms


@dataclass(frozen=True)
class WordSubstitution(Substitution):
    """The opening with one word, or a third of the words it can replace, substituted by synonyms; the same target follows.

    Black-box; what is kept is judged by the base model (see `Rewording`).
    """

    asks: ClassVar[Questions] = {"single": "edit"}

    def reads(self) -> tuple[Path, ...]:
        return (CONFIGS / "synonyms.txt",)

    def options(self, memory: EncodedMemory, tools: Tools) -> Options:
        found = WORD.finditer(memory.memory.opening)
        return [(word, synonyms()[word.group().lower()]) for word in found if word.group().lower() in synonyms()]
