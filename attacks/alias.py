"""The question with another name for what it asks about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..benchmark.attack import Memory, OtherPrompts


@dataclass(frozen=True)
class Alias(OtherPrompts):
    """The question under other names of its subject, as the set gives them (`aliases`); the same answer is wanted."""

    def prompts(self, memory: Memory) -> Iterable[str]:
        return memory.aliases
