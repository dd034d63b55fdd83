"""Intervals of paired differences cover what they should, and p-values say the same as the intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from palimpsest.leaderboard.diff import MARGINS
from palimpsest.leaderboard.paired import Paired, _wilson, counted, newcombe_paired, over_documents, over_pairs
from palimpsest.leaderboard.power import Simulated, Size
from palimpsest.leaderboard.statistics import wilson


def pairs(n: int, p: float, q: float, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """0/1 values with these shares that agree as often as they can in half of the cases."""
    u = draw.random(n)
    v = np.where(draw.random(n) < 0.5, u, draw.random(n))
    return (u < p).astype(float), (v < q).astype(float)


@pytest.mark.parametrize(("n", "p", "q"), [(8, 0.2, 0.2), (16, 0.5, 0.3), (64, 0.05, 0.1), (64, 0.9, 0.9)])
def test_the_interval_of_paired_shares_covers(n: int, p: float, q: float) -> None:
    draw = np.random.default_rng(0)
    found = [newcombe_paired(*pairs(n, p, q, draw)) for _ in range(600)]
    assert np.mean([low <= p - q <= high for low, high in found]) >= 0.935


def test_pairs_that_agree_narrow_the_interval_and_no_pairs_give_none() -> None:
    a, b = np.repeat([0.0, 1.0], 20), np.repeat([1.0, 0.0], 20)
    together, apart = newcombe_paired(a, a), newcombe_paired(a, b)
    assert together[1] - together[0] < 0.6 * (apart[1] - apart[0])
    assert np.isnan(newcombe_paired([], [])).all()


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("shares", [True, False])
def test_a_p_value_is_small_exactly_where_the_interval_lies_beyond_the_limit(seeds: int, shares: bool) -> None:
    draw = np.random.default_rng(seeds)
    for _ in range(40):
        a, b = [], []
        for _ in range(seeds):
            x, y = pairs(20, 0.6, 0.3, draw)
            a.append(x if shares else 10 * x + draw.normal(size=20))
            b.append(y if shares else 10 * y)
        it, limit = over_pairs(a, b), float(draw.normal())
        low, high = it.interval(0.95)
        assert (it.p_above(limit) <= 0.025) == (low >= limit)
        assert (it.p_below(limit) <= 0.025) == (high <= limit)


def test_noise_alone_is_called_worse_in_two_and_a_half_percent_of_cases() -> None:
    draw = np.random.default_rng(7)
    for seeds, n in ((1, 8), (1, 16), (3, 64)):
        p = [over_pairs(*zip(*[pairs(n, 0.3, 0.3, draw) for _ in range(seeds)], strict=True)).p_above(0.0) for _ in range(400)]
        assert np.mean(np.array(p) <= 0.025) <= 0.04


def test_the_closed_form_is_wilsons_interval() -> None:
    for k, n in ((0, 8), (3, 16), (64, 64)):
        assert _wilson(k / n, n, 0.95) == pytest.approx(wilson(k, n), abs=1e-12)


def test_p_values_are_those_of_the_t_test() -> None:
    x, y = np.array([3.0, 5.0, 4.0, 9.0]), np.array([1.0, 2.0, 2.0, 3.0])
    known = stats.ttest_1samp(x - y, 1.0, alternative="greater").pvalue
    assert over_pairs([x], [y]).p_above(1.0) == pytest.approx(known, rel=1e-6)


def test_all_memories_of_all_seeds_carry_the_interval() -> None:
    draw = np.random.default_rng(3)
    a, b = pairs(60, 0.6, 0.2, draw)
    one, three = over_pairs([a], [b], 100), over_pairs(np.split(a, 3), np.split(b, 3), 100)
    assert one.estimate.low == three.estimate.low > 0
    assert (one.value, len(one.by_seed), len(three.by_seed)) == (three.value, 1, 3)
    alike = over_pairs([np.zeros(30)] * 3, [np.zeros(30)] * 3)
    assert 0.03 < alike.estimate.high < 0.05, "0 of 90 is not 0 for sure"


def test_trainings_that_differ_by_chance_are_seldom_worse_by_more_than_the_margin() -> None:
    """A new training moves a seed's memories together, which no interval over memories sees: the margin of 5 points is for that."""
    pocket = Simulated(Size(seeds=3, forget=64, keep=32, documents=400), MARGINS)
    for measure in ("leak", "exact", "damage", "collateral"):
        assert pocket.false_alarms(measure) <= 0.035


def test_a_larger_run_sees_smaller_changes_of_damage_and_collateral() -> None:
    smoke, quick = (Simulated(Size(1, n, n // 2, documents), MARGINS) for n, documents in ((8, 30), (16, 100)))
    assert MARGINS["damage"] < quick.smallest("damage") < smoke.smallest("damage") < 3
    assert np.isnan(quick.smallest("collateral")), "eight hidden memories show no loss for sure"
    assert MARGINS["collateral"] < Simulated(Size(3, 64, 32, 400), MARGINS).smallest("collateral") < 40
    assert not quick.told("leak")
    assert not Simulated(Size(3, 64, 32, 0), MARGINS).told("damage")


def test_nothing_measured_has_no_interval_and_tells_nothing() -> None:
    for it in (over_pairs([], []), over_pairs([[3.0]], [[1.0]]), over_documents([], []), over_documents([1.0], [float("nan")])):
        assert not np.isfinite(it.interval(0.95)).any()
        assert (it.p_above(-9), it.p_below(9)) == (1.0, 1.0)


def test_documents_carry_the_interval_of_one_seed_and_counts_have_none() -> None:
    assert over_documents([2.0], [0.5]).estimate.low == pytest.approx(2 - 1.96 * 0.5, abs=1e-3)
    assert over_documents([2.0, 3.0, 2.5], [0.5] * 3).estimate.low == pytest.approx(1.258, abs=1e-3)
    it = counted([4.0, 6.0])
    assert (it.interval(0.95), it.tested) == ((5.0, 5.0), False)
    assert isinstance(it, Paired)
