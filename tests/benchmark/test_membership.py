"""AUC, true positive rates, PrivLeak and forget quality against brute force and a library."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from palimpsest.leaderboard.membership import auc, auc_error, caught, chance_of_lowest, forget_quality, privleak


def scores(seed: int, tied: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    members, others = rng.normal(0.7, 1, 60), rng.normal(0, 1.3, 45)
    return (members.round(), others.round()) if tied else (members, others)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_auc_is_the_share_of_pairs_in_the_right_order(seed: int, tied: bool):
    members, others = scores(seed, tied)
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(members, others)]
    assert auc(members, others) == pytest.approx(np.mean(pairs))
    truth = np.r_[np.ones(len(members)), np.zeros(len(others))]
    assert auc(members, others) == pytest.approx(roc_auc_score(truth, np.r_[members, others]))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("allowed", [0, 0.01, 0.05, 0.3])
def test_the_true_positive_rate_is_the_best_that_the_false_positive_rate_allows(allowed: float, tied: bool):
    members, others = scores(0, tied)
    truth = np.r_[np.ones(len(members)), np.zeros(len(others))]
    false, true, _ = roc_curve(truth, np.r_[members, others], drop_intermediate=False)
    assert caught(members, others, allowed).mean() == pytest.approx(true[false <= allowed].max())


def test_one_percent_of_a_hundred_others_is_one_of_them():
    assert caught([98.5, 99.5], range(100), 0.01).tolist() == [True, True]
    assert caught([98.5, 99.5], range(100), 0.0).tolist() == [False, True]
    assert caught([1.0], [2.0], 1.0).all()


def test_the_error_of_the_auc_is_its_spread_over_samples():
    rng = np.random.default_rng(0)
    drawn = [(rng.normal(1, 1, 50), rng.normal(0, 1, 80)) for _ in range(1500)]
    spread = np.std([auc(*d) for d in drawn])
    assert np.mean([auc_error(*d) for d in drawn[:300]]) == pytest.approx(spread, rel=0.06)


def test_the_chance_that_the_lowest_are_all_members_is_counted_over_all_orders():
    orders = list(itertools.combinations(range(7), 4))  # which places of seven the four members take
    for k in range(5):
        assert chance_of_lowest(k, 4, 3) == pytest.approx(sum(set(range(k)) <= set(o) for o in orders) / len(orders))


def test_nothing_to_compare_is_not_a_number():
    assert math.isnan(auc([], [1.0]))
    assert math.isnan(auc_error([1.0], [1.0, 2.0]))
    assert all(math.isnan(x) for x in forget_quality([], [1.0]))
    assert not len(caught([], [1.0], 0.01))


def test_privleak_is_zero_like_the_retrained_model_and_falls_when_too_much_is_forgotten():
    assert privleak(0.5, 0.5) == 0
    assert privleak(1.0, 0.5) == 100
    assert privleak(0.0, 0.5) == -100


def test_forget_quality_is_the_two_sample_ks_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 64), rng.normal(1, 1, 64)
    grid = np.r_[a, b]
    distance = max(abs((a <= x).mean() - (b <= x).mean()) for x in grid)
    assert forget_quality(a, b) == pytest.approx((distance, stats.ks_2samp(a, b).pvalue))
    assert forget_quality(a, a) == (0, 1)
