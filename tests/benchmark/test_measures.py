"""Tries, relearning steps and reversal against brute force and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from palimpsest.leaderboard.measures import Ratio, relearn_ratio, reversal, steps_to, tries_needed


def test_the_tries_needed_are_the_first_at_which_the_chance_is_reached():
    for one in (0.9, 0.31, 0.02, 0.0015):
        (needed,) = tries_needed([math.log(one)], 0.5)
        first = next(n for n in range(1, 10_000) if 1 - (1 - one) ** n >= 0.5)
        assert needed == first


@pytest.mark.parametrize("one", [0.9, 0.5, 0.3, 0.01, 1e-4])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.99])
def test_one_try_less_would_not_do(one: float, p: float) -> None:
    (n,) = tries_needed([math.log(one)], p)
    assert 1 - (1 - one) ** n >= p - 1e-12
    assert n == 1 or 1 - (1 - one) ** (n - 1) < p


def test_the_tries_needed_agree_with_sampling():
    (needed,) = tries_needed([math.log(0.03)], 0.5)
    hits = np.random.default_rng(0).random((20_000, int(needed))) < 0.03
    assert hits.any(axis=1).mean() == pytest.approx(0.5, abs=0.02)


def test_certain_texts_need_one_try_and_impossible_ones_more_than_there_are():
    assert tries_needed([0.0, 1e-9, -math.inf, -2000.0]).tolist() == [1, 1, math.inf, math.inf]
    assert tries_needed([-40.0])[0] == pytest.approx(math.log(2) * math.exp(40), rel=1e-6)


def test_steps_are_counted_to_the_first_that_reaches_the_goal():
    assert steps_to({0: 1, 5: 31.9, 10: 32, 20: 50}, 32) == 10
    assert steps_to({0: 1, 5: 2}, 32) is None


@pytest.mark.parametrize(
    ("mine", "twin", "ratio"),
    [
        ({0: 3, 5: 40}, {0: 0, 5: 10, 20: 33}, Ratio(4)),
        ({0: 3, 5: 40}, {0: 0, 20: 31}, Ratio(4, bound=True)),
        ({0: 60, 5: 64}, {0: 0, 20: 33}, Ratio(math.inf)),
    ],
)
def test_the_relearn_ratio_is_the_twins_steps_over_mine(mine: dict, twin: dict, ratio: Ratio):
    assert relearn_ratio(mine, twin) == ratio


def test_there_is_no_relearn_ratio_for_a_model_that_does_not_relearn_or_without_a_twin():
    assert math.isnan(relearn_ratio({0: 3, 20: 31}, {0: 0, 20: 33}).value)
    assert math.isnan(relearn_ratio({0: 3, 20: 64}, {}).value)


def test_reversal_is_a_share_of_what_was_unlearned_and_nothing_where_nothing_was():
    assert reversal(33, 2, 64) == 0.5
    assert math.isnan(reversal(64, 63.5, 64))
