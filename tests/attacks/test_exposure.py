"""Exposure: its siblings of a text, and their scores against brute force."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from palimpsest.attacks.exposure import Exposure, _synonyms
from palimpsest.attacks.exposure import log_probabilities as shared_log_probabilities
from palimpsest.benchmark.attack import EncodedMemory, Memory, Workshop
from palimpsest.benchmark.attack_tools.synonyms import synonyms
from tests.attacks.brute_force import log_probabilities
from tests.attacks.searching import searching_tools, with_first_id
from tests.conftest import Memorised


@pytest.fixture(scope="module")
def tools(memorised: Memorised) -> Workshop:
    return searching_tools(memorised)


def test_siblings_are_as_many_as_asked_all_different_all_of_one_length_and_never_the_text(memorised: Memorised, tools: Workshop) -> None:
    attack = Exposure()
    for m in (*memorised.memories, *memorised.unseen):
        slots = attack._slots(m, tools)
        texts = attack._texts(m, slots, tools)
        assert texts.shape == (1000, slots[-1].end - m.opening)
        assert len(np.unique(texts, axis=0)) == 1000
        assert texts[0].tolist() == list(m.row[m.opening : slots[-1].end])
        assert slots[-1].end <= m.opening + 32
        assert all(a.end <= b.begin for a, b in itertools.pairwise(slots))
        assert all(m.row[s.begin : s.end] == s.choices[0] for s in slots)


def test_synonyms_take_as_many_tokens_as_the_word(tools: Workshop) -> None:
    text = "It was late, and the big house stood there with an old roof. " + "Nobody came. " * 60
    whole = tools.encode(text)
    m = EncodedMemory(Memory("made-up", "test", text, 12), "forget", False, whole[:160], len(tools.encode(text[:12])))
    slots = list(_synonyms(m, 60, tools))
    assert slots
    for s in slots:
        assert s.choices[0] == whole[s.begin : s.end]
        assert len(s.choices) > 1
        for ids in s.choices[1:]:
            said = tools.decode((*whole[: s.begin], *ids, *whole[s.end :]))
            assert tools.encode(said) == (*whole[: s.begin], *ids, *whole[s.end :])
            pairs = [(old, new) for old, new in zip(text.split(), said.split(), strict=True) if old != new and old not in ("a", "an")]
            ((old, new),) = pairs
            assert new.strip(",.") in synonyms()[old.strip(",.")]
    assert not list(_synonyms(m, m.opening + 1, tools)), "nothing beyond the span"


def test_siblings_do_not_depend_on_the_model_under_attack(memorised: Memorised, tools: Workshop) -> None:
    asked: list[bytes] = []

    class Noting(Exposure):
        def _texts(self, *given: Any) -> np.ndarray:
            asked.append(super()._texts(*given).tobytes())
            return np.frombuffer(asked[-1], dtype=int).reshape(20, -1).copy()

    for subject in (memorised.subject, memorised.base):
        list(Noting(texts=20).search(subject, memorised.memories[:2], tools))
    assert asked[:2] == asked[2:]


@pytest.mark.parametrize("bos", [None, 7])
def test_texts_that_share_beginnings_score_as_each_alone(bos: int | None, memorised: Memorised, tools: Workshop) -> None:
    subject = memorised.subject if bos is None else with_first_id(memorised.subject, bos)
    m = memorised.unseen[0]
    attack = Exposure(texts=40, each=3, last=4)
    slots = attack._slots(m, tools)
    texts = attack._texts(m, slots, tools)
    ends = sorted({place - m.opening for s in slots for place in (s.begin, s.end)} - {0})
    found = shared_log_probabilities(subject, m.row[: m.opening], texts, ends)
    for score, ids in zip(found, texts.tolist(), strict=True):
        whole = log_probabilities(subject, (*m.row[: m.opening], *ids))[m.opening :]
        assert score == pytest.approx(float(whole.gather(1, torch.tensor(ids)[:, None]).sum()), abs=1e-3)


def test_what_is_held_stands_out_among_its_siblings(memorised: Memorised, tools: Workshop) -> None:
    attack = Exposure(texts=200)
    held = [f.value for f in attack.search(memorised.subject, memorised.memories, tools)]
    never = [f.value for f in attack.search(memorised.base, memorised.memories, tools)]
    assert held == [math.log2(200)] * 8
    assert max(never) < math.log2(200) - 1


def test_a_model_that_tells_nothing_apart_exposes_nothing(memorised: Memorised, tools: Workshop) -> None:
    weights = memorised.base.model.state_dict()
    blind = memorised.base.with_state(weights | {"lm_head.weight": torch.zeros_like(weights["lm_head.weight"])})
    found = list(Exposure(texts=50).search(blind, memorised.memories[:2], tools))
    assert [f.value for f in found] == [0.0, 0.0]
