"""What tests of attacks share: the tools of a seed, a model to tamper with, and memories made up for one test."""

from __future__ import annotations

import pytest
import torch

from palimpsest.benchmark.attack import Tools
from palimpsest.benchmark.common.types import EncodedMemory, Memory
from palimpsest.benchmark.models.subject import Subject
from tests.attacks.tampering import weights
from tests.conftest import Memorised


def fresh_tools(memorised: Memorised, seed: int = 3) -> Tools:
    """As the attacks of a seed get them: the untrained model as the base, and the shown keep memories."""
    return Tools(memorised.base, seed, [m for m in memorised.memories if m.shown])


@pytest.fixture(scope="session")
def tools(memorised: Memorised) -> Tools:
    return fresh_tools(memorised)


@pytest.fixture(scope="module")
def unlearned(memorised: Memorised) -> Subject:
    """The memorised model with some noise, so that it differs from the held one: what tampering is tried on."""
    torch.manual_seed(0)
    return memorised.subject.with_state({k: v + 0.01 * torch.randn_like(v) for k, v in weights(memorised.subject).items()})


def encoded_text(text: str, opening_end: int, tools: Tools, paraphrases: tuple[str, ...] = (), name: str = "made-up") -> EncodedMemory:
    """A memory to forget with this text."""
    memory = Memory(name, "test", text, opening_end, paraphrases=paraphrases)
    return EncodedMemory(memory, "forget", False, tools.encode(text)[:160], len(tools.encode(memory.opening)))
