"""Intervals and tests against values known by hand or from the papers."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from palimpsest.leaderboard import statistics as s


@pytest.mark.parametrize(("hits", "n", "upper"), [(0, 100, 0.037), (0, 300, 0.0127)])
def test_wilson_bounds_a_rate_that_was_never_seen(hits: int, n: int, upper: float):
    low, high = s.wilson(hits, n)
    assert low == pytest.approx(0, abs=1e-12)
    assert high == pytest.approx(upper, abs=5e-4)


def test_wilson_of_nothing_is_not_a_number():
    assert all(math.isnan(x) for x in s.wilson(0, 0))


def test_newcombe_gives_the_published_example():
    mine, other = np.r_[np.ones(56), np.zeros(14)], np.r_[np.ones(48), np.zeros(32)]  # 56/70 against 48/80
    assert s.newcombe(mine, other) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_welch_is_students_interval_where_both_sides_are_alike():
    """Equal sizes and variances: 2 (n - 1) degrees of freedom; the means differ by 3, each side has the variance 1."""
    low, high = s.welch([0, 1, 2], [3, 4, 5])
    half = 2.776445 * np.sqrt(2 / 3)
    assert (low, high) == pytest.approx((-3 - half, -3 + half), abs=1e-5)
    assert np.isnan(s.welch([1], [1, 2])).all()


def test_texts_are_drawn_together_and_the_same_way_each_time():
    x = np.arange(50.0)
    low, high = s.bootstrap_interval(lambda a, b: float((a - b).mean() + a.mean()), x, x)  # paired: the difference is always 0
    assert (low, high) == s.bootstrap_interval(lambda a: float(a.mean()), x)
    half = 1.96 * x.std() / np.sqrt(50)
    assert (low, high) == pytest.approx((24.5 - half, 24.5 + half), abs=0.6)
    assert np.isnan(s.bootstrap_interval(lambda a: float(a.mean()), np.ones(9))).all(), "no width of zero"


def test_the_t_interval_of_three_seeds_is_known():
    low, high = s.t_interval([1, 2, 3])
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))


def test_mcnemar_is_the_exact_binomial():
    assert s.mcnemar([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]) == pytest.approx(2 / 32)
    assert s.mcnemar([1, 0], [1, 0]) == 1


def test_the_permutation_test_is_exact_for_few_pairs_and_repeatable_for_many():
    assert s.paired_permutation([1, 1, 1, 1]) == pytest.approx(2 / 16)
    assert s.paired_permutation([0, 0, 0]) == s.paired_permutation([5]) == 1
    assert math.isnan(s.paired_permutation([]))
    many = np.random.default_rng(0).normal(0.1, 1, 100)
    assert s.paired_permutation(many) == s.paired_permutation(many)


def test_holm_gives_the_textbook_values_in_the_order_given():
    assert s.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert s.holm([]) == []


def test_one_seed_gives_wilson_and_any_more_students_t():
    hits = [np.r_[np.ones(k), np.zeros(64 - k)] for k in (10, 12, 14, 16, 12, 11)]
    one, three, six = (s.rate(hits[:n]) for n in (1, 3, 6))
    assert (one.low, one.high) == s.wilson(10, 64)
    assert (three.low, three.high) == pytest.approx(s.t_interval([10 / 64, 12 / 64, 14 / 64]))
    assert (six.low, six.high) == pytest.approx(s.t_interval([k / 64 for k in (10, 12, 14, 16, 12, 11)]))
    assert three.spread == pytest.approx(4 / 64)
    assert math.isnan(one.spread)
    assert three.count == 192


def test_seeds_that_agree_exactly_do_not_claim_certainty():
    assert s.rate([np.zeros(100)] * 3).high == pytest.approx(s.wilson(0, 300)[1])


def test_an_interval_stays_within_what_is_possible():
    assert s.rate([[0, 0, 0, 1], [1, 1, 1, 1]]).within(0, 1).high == 1
    found = s.difference([[1, 1]], [[0, 0]])
    assert found.value == 1
    assert found.high <= 1


def test_nothing_measured_is_false_and_not_a_number():
    assert not s.mean([])
    assert s.mean([[0.0, 0.0]])


def test_the_leaderboard_never_imports_torch():
    modules = "palimpsest.leaderboard.grids, palimpsest.leaderboard.report, palimpsest.leaderboard.plots"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_the_permutation_test_agrees_with_a_library():
    few, many = (np.random.default_rng(0).normal(0.2, 1, n) for n in (12, 60))

    def library(d: np.ndarray) -> float:
        return stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=20_000, vectorized=True, rng=1).pvalue

    assert s.paired_permutation(few) == pytest.approx(library(few))  # both try every flip
    assert s.paired_permutation(many) == pytest.approx(library(many), abs=0.015)


def test_a_figure_has_one_number_per_seed():
    assert s.figure([0.5], (0.4, 0.6)) == s.Estimate(0.5, 0.4, 0.6, (0.5,), 1)
    three = s.figure([0.4, 0.5, float("nan"), 0.6])
    assert (three.low, three.high) == pytest.approx(s.t_interval([0.4, 0.5, 0.6]))
    assert not s.figure([])


def test_values_are_grouped_by_seed_without_what_was_not_measured():
    index = pd.MultiIndex.from_tuples([(0, "a"), (2, "b"), (0, "c"), (1, "d")], names=["seed", "memory"])
    assert [g.tolist() for g in s.by_seed(pd.Series([1.0, 2.0, 3.0, np.nan], index))] == [[1, 3], [2]]
