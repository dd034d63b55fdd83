"""AUCs within strata, by hand: only pairs of one stratum count, intervals are over clusters, labels are drawn anew within strata."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from palimpsest.benchmark.studies._auc import clustered_auc
from palimpsest.benchmark.studies._strata import Stratum, permuted_p, stratified_auc


def stratum(members: list[float], others: list[float], name: str = "") -> Stratum:
    """Every value in a cluster of its own; those of strata of one name share clusters."""
    sides = [[f"{name}{side}{i}" for i in range(len(values))] for side, values in (("m", members), ("o", others))]
    return Stratum(np.array(members, float), np.array(others, float), (sides[0], sides[1]))


def test_aucs_are_weighted_by_pairs() -> None:
    found = stratified_auc([stratum([3], [1, 2], "a"), stratum([1, 1], [1, 2], "b"), stratum([9], [], "c")])
    assert found.value == pytest.approx((2 * 1 + 4 * 0.25) / 6)
    assert found.count == 7


def test_what_differs_between_strata_alone_tells_nothing() -> None:
    a, b = stratum([10, 11, 10], [10, 11], "a"), stratum([1, 2], [1, 2, 1, 2], "b")
    assert 0.35 < stratified_auc([a, b]).value < 0.65
    assert permuted_p([a, b]) > 0.2


def test_no_pair_is_no_number() -> None:
    for strata in ([], [stratum([1], []), stratum([], [2])]):
        assert not stratified_auc(strata)
        assert np.isnan(permuted_p(strata))


def test_one_stratum_is_an_auc_of_clusters() -> None:
    rng = np.random.default_rng(0)
    s = stratum(rng.normal(0.7, 1, 200).tolist(), rng.normal(0, 1, 200).tolist())
    mine, known = stratified_auc([s]), clustered_auc(s.members, s.others, s.clusters)
    assert (mine.value, mine.low, mine.high) == pytest.approx((known.value, known.low, known.high), abs=1e-3)


def test_a_memory_in_two_strata_is_one_case() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.normal(0.5, 1, 20).tolist(), rng.normal(0, 1, 30).tolist()
    twice, apart = ([stratum(members, others, name) for name in names] for names in (("a", "a"), ("a", "b")))
    same, wider = stratified_auc(apart), stratified_auc(twice)
    assert wider.value == same.value
    assert (wider.high - wider.low) / (same.high - same.low) == pytest.approx(np.sqrt(2), rel=0.02)


def test_one_member_does_not_make_certain() -> None:
    lone = stratified_auc([stratum([5], [1, 2, 3, 9], "a"), stratum([5], [1, 2, 3, 4], "b")])
    assert lone.low < 0.8


def test_permutation_is_that_of_all_labels() -> None:
    """Of two strata of 1 + 3 the observed labels are the highest: one of sixteen ways."""
    assert permuted_p([stratum([4], [1, 2, 3], "a"), stratum([4], [1, 2, 3], "b")]) == pytest.approx(1 / 16)
    assert permuted_p([stratum([1], [2, 3, 4])]) == pytest.approx(1)
    assert permuted_p([stratum([2, 2], [1, 2])]) == pytest.approx(1 / 2), "of six ways three leave out the 1"


def test_of_one_stratum_it_is_the_exact_rank_sum_test() -> None:
    rng = np.random.default_rng(1)
    members, others = rng.normal(0.4, 1, 9), rng.normal(0, 1, 14)
    known = stats.mannwhitneyu(members, others, alternative="greater", method="exact").pvalue
    assert permuted_p([stratum(members.tolist(), others.tolist())]) == pytest.approx(known)


def test_the_order_of_strata_and_of_rows_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    strata = [stratum(rng.integers(0, 9, 5).tolist(), rng.integers(0, 9, 20).tolist(), name) for name in "abc"]
    turned = [Stratum(s.members[::-1], s.others[::-1], s.clusters) for s in strata[::-1]]
    assert permuted_p(turned) == pytest.approx(permuted_p(strata), rel=1e-12)
