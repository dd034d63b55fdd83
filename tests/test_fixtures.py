"""The shared fixtures are what they say."""

from __future__ import annotations

from pathlib import Path

import torch

from palimpsest.benchmark.common.types import HORIZON, EncodedMemory
from palimpsest.benchmark.models.subject import Subject
from tests.conftest import LONGEST, Memorised


def matched(subject: Subject, memory: EncodedMemory) -> int:
    """Greedy tokens equal to the standard target's, by generating."""
    said = subject.generate([memory.row[: memory.opening]], HORIZON)[0]
    return int((torch.tensor(said) == torch.tensor(memory.target)).long().cumprod(0).sum())


def test_the_memorised_model_repeats_what_it_was_trained_on_and_nothing_else(memorised: Memorised) -> None:
    assert [matched(memorised.subject, m) == HORIZON for m in memorised.memories].count(True) >= 7
    assert max(matched(memorised.subject, m) for m in memorised.unseen) <= 3
    assert max(matched(memorised.base, m) for m in memorised.memories) <= 3


def test_the_files_that_are_begun_first_are_there() -> None:
    assert [name for name in LONGEST if not (Path(__file__).parent / name).is_file()] == []
