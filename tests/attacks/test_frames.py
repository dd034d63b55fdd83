"""Frames announce, quote or ask for the text; the opening itself is unchanged and last."""

from __future__ import annotations

import pytest

from palimpsest.attacks.frames import FRAMES, Frames
from palimpsest.benchmark.attack import Tools
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.texts.memories import load_memories
from palimpsest.benchmark.texts.neardup import overlap
from tests.conftest import Memorised


def test_every_frame_is_a_variant_of_its_own_and_ends_with_the_opening(memorised: Memorised, tools: Tools) -> None:
    assert len(FRAMES) >= 8
    for m in memorised.memories:
        probes = list(Frames().probes(m, tools))
        assert [p.variants for p in probes] == [(variant,) for variant in FRAMES]
        for p, before in zip(probes, FRAMES.values(), strict=True):
            assert tools.decode(p.prompt) == before + m.memory.opening
            assert (p.target, p.offset, p.start) == (m.target, m.opening, -1)


def test_frames_differ_and_share_no_five_words_with_any_shipped_memory() -> None:
    assert len(set(FRAMES.values())) == len(FRAMES)
    assert overlap(list(FRAMES.values()), [m.text for m in load_memories()], 5).max() == 0


@pytest.mark.parametrize("room", [0, 100])
def test_a_frame_that_does_not_fit_is_left_out(room: int, memorised: Memorised) -> None:
    m, tools = memorised.memories[0], Tools(Subject(memorised.base.folder))
    tools.base.model.config.max_position_embeddings = m.opening + 64 + room
    assert len(list(Frames().probes(m, tools))) == (len(FRAMES) if room else 0)
