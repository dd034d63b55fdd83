"""The labelled models of the study `instrument`: how many of each kind, and that what is done to one is done."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.models.weights import linear_weights
from palimpsest.benchmark.studies._labelled import HOLDS, NEVER, Doses, labelled, noised

SEEDS = (0, 1, 2)


def test_there_are_at_least_thirty_models_of_a_kind() -> None:
    plan = [(m, s) for s in SEEDS for m in labelled(Doses(), SEEDS, s, 64)]
    groups = Counter(m.group for m, _ in plan)
    assert groups[HOLDS] >= 30
    assert groups[NEVER] >= 30
    assert len({(m.name, s) for m, s in plan}) == len(plan)
    other = [m.of for m, s in plan if m.name == "held of another seed"]
    assert other == [2, 0, 1]  # what is forgotten in a seed is unseen two seeds later


def test_noise_has_the_size_that_was_asked_for(tiny: Subject) -> None:
    old, new = ({k: w.detach() for k, w in linear_weights(s.model).items()} for s in (tiny, noised(tiny, 0.1, 3)))
    name = next(iter(old))
    assert float((new[name] - old[name]).std() / old[name].std()) == pytest.approx(0.1, rel=0.05)
    assert torch.equal(linear_weights(noised(tiny, 0.1, 3).model)[name], new[name])
