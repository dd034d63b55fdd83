"""What tests of prompting attacks share: the tools of a seed, and memories made up for one test."""

from __future__ import annotations

import pytest

from palimpsest.benchmark.attack import Tools
from palimpsest.benchmark.common.types import EncodedMemory, Memory
from tests.conftest import Memorised


def fresh_tools(memorised: Memorised, seed: int = 3) -> Tools:
    """As the attacks of a seed get them: the untrained model as the base, and the shown keep memories."""
    return Tools(memorised.base, seed, [m for m in memorised.memories if m.shown])


@pytest.fixture(scope="session")
def tools(memorised: Memorised) -> Tools:
    return fresh_tools(memorised)


def encoded_text(text: str, opening_end: int, tools: Tools, paraphrases: tuple[str, ...] = (), name: str = "made-up") -> EncodedMemory:
    """A memory to forget with this text."""
    memory = Memory(name, "test", text, opening_end, paraphrases=paraphrases)
    return EncodedMemory(memory, "forget", False, tools.encode(text)[:160], len(tools.encode(memory.opening)))
