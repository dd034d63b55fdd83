"""Measures of the literature by hand, and AUCs whose intervals are known."""

from __future__ import annotations

import numpy as np
import pytest

from palimpsest.benchmark.studies._auc import auc_of, clustered_auc, difference_of_aucs
from palimpsest.benchmark.studies._measures import exact_memorisation, extraction_strength, memorisation_score, rouge_l, truth_margin
from palimpsest.leaderboard.membership import auc_error, privleak


@pytest.mark.parametrize(
    ("said", "strength", "share"),
    [([1, 1, 1, 1], 1, 1), ([0, 0, 0, 0], 0, 0), ([1, 1, 0, 1], 0.25, 0.75), ([0, 1, 1, 1], 0.75, 0.75), ([1, 1, 1, 0], 0, 0.75)],
)
def test_extraction_strength_is_the_share_behind_the_last_miss(said: list[int], strength: float, share: float) -> None:
    assert extraction_strength(said) == strength
    assert exact_memorisation(said) == share


def test_the_memorisation_score_counts_places_wherever_they_are() -> None:
    assert memorisation_score([1, 9, 3, 4], [1, 2, 3, 4]) == 0.75
    assert memorisation_score([2, 3, 4, 5], [1, 2, 3, 4]) == 0  # shifted by one: nothing is in its place


@pytest.mark.parametrize(
    ("said", "truth"),
    [
        ("The cat sat.", "the cat SAT"),
        ("nothing alike", "some other words"),
        ("a b c d", "a c d b"),
        ("", "x"),
        ("the cat the cat", "cat the"),
    ],
)
def test_rouge_l_is_that_of_the_library(said: str, truth: str) -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    assert rouge_l(said, truth) == pytest.approx(scorer.score(truth, said)["rougeL"].fmeasure)


def test_rouge_l_by_hand() -> None:
    assert rouge_l("a b c d", "a c d b") == 0.75  # a c d, of four words each
    assert rouge_l("a b", "a b c d e f") == pytest.approx(2 * (1 * 1 / 3) / (1 + 1 / 3))


def test_the_truth_margin_is_in_nats_per_token() -> None:
    assert truth_margin([-1, -3], [-4, -4, -4]) == 2


def test_privleak_is_nothing_where_the_twin_is_alike() -> None:
    assert privleak(0.5, 0.5) == 0
    assert privleak(1.0, 0.5) == 100


def test_an_auc_keeps_an_interval_where_all_is_told_apart() -> None:
    found = auc_of(np.ones(30), np.zeros(30))
    assert found.value == found.high == 1
    assert 0.92 < found.low < 0.95
    mirrored = auc_of(np.zeros(30), np.ones(30))
    assert mirrored.high == pytest.approx(1 - found.low)
    assert auc_of(np.ones(300), np.zeros(300)).low > 0.99


def test_the_interval_of_an_auc_covers() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        found = auc_of(rng.normal(1.19, 1, 30), rng.normal(0, 1, 30))  # of which the AUC is .8
        hits += found.low <= 0.8 <= found.high
    assert 0.92 <= hits / 400 <= 0.98


def test_clusters_of_one_are_delong_and_repeats_are_no_information() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(1, 1, 40), rng.normal(0, 1, 40)
    one = clustered_auc(a, b, ([*range(40)], [*range(40, 80)]))
    assert one.high - one.value == pytest.approx(1.96 * auc_error(a, b), rel=0.01)
    again = clustered_auc(np.repeat(a, 5), np.repeat(b, 5), ([*np.repeat(range(40), 5)], [*np.repeat(range(40, 80), 5)]))
    assert (again.value, again.low) == pytest.approx((one.value, one.low))


def test_nothing_is_said_of_the_difference_of_two_that_tell_all_apart() -> None:
    perfect, rng = (np.ones(30), np.zeros(30)), np.random.default_rng(2)
    assert np.isnan(difference_of_aucs(perfect, perfect).low)
    poor = (rng.normal(0.3, 1, 30), rng.normal(0, 1, 30))
    assert difference_of_aucs(perfect, poor).low > 0
    assert difference_of_aucs(poor, poor).value == 0
