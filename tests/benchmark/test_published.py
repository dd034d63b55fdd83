"""Measures of other papers against cases made by hand, and against what public code gets wrong."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from palimpsest.benchmark.common.answer_reading import MEMBERS
from palimpsest.benchmark.scoring import published as p
from palimpsest.leaderboard.membership import forget_quality, privleak
from tests.benchmark.published_cases import CASES, LOG, PAGE, Case, page, said


def test_every_measure_has_one_title_and_says_where_it_points() -> None:
    assert all(n == 1 for n in Counter(m.title for m in p.MEASURES).values())
    assert {m.direction.partition(":")[0] for m in p.MEASURES} == {"forgotten", "kept"}
    assert all("et al." in m.source for m in p.MEASURES)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.measure}: {c.given}")
def test_a_measure_is_what_it_is_by_hand(case: Case) -> None:
    assert case.got() == pytest.approx(case.expected, abs=1e-9)


def test_every_measure_has_a_case_and_the_page_of_cases_is_of_these() -> None:
    assert {c.measure for c in CASES} == {m.name for m in p.MEASURES}
    assert page() == PAGE.read_text("utf-8"), "run `python -m tests.benchmark.published_cases`"


@pytest.mark.parametrize(
    ("likeliest", "strength", "exact"),
    [
        ((False, False, False, False), 0.0, 0.0),  # a public implementation gives 1/m
        ((True, True, True, False), 0.0, 0.75),
        ((False, True, True, True), 0.75, 0.75),
        ((True, True, True, True), 1.0, 1.0),
    ],
)
def test_extraction_strength_is_none_where_the_last_token_is_missed(likeliest: tuple[bool, ...], strength: float, exact: float) -> None:
    read = p.Read([said(likeliest=likeliest)])
    assert read.values("extraction_strength").tolist() == [strength]
    assert read.values("exact_memorisation").tolist() == [exact]


def test_the_truth_ratio_is_of_means_in_the_paper_and_of_logs_in_code() -> None:
    right, wrong = LOG(0.5), (LOG(0.1), LOG(0.4))
    assert p.truth_ratio(right, wrong) == pytest.approx(0.25 / 0.5)
    assert p.truth_ratio_of_code(right, wrong) == pytest.approx(0.2 / 0.5)
    assert p.truth_ratio(right, [right, right]) == p.truth_ratio_of_code(right, [right, right]) == pytest.approx(1)
    assert math.isnan(p.truth_ratio(right, ()))
    assert p.nearness_to_one(0.25) == p.nearness_to_one(4) == 0.25
    assert (p.nearness_to_one(0), p.truth_preferred(0.25), p.truth_preferred(4)) == (0, 0.75, 0)


def test_the_paraphrased_answer_is_the_right_one_where_there_is_one() -> None:
    assert p.ratios([said(right=(LOG(0.25),), wrong=(LOG(0.5),))]) == pytest.approx([2])
    assert p.ratios([said(wrong=(LOG(0.5),)), said()]) == pytest.approx([1])


def test_probability_does_not_fall_with_length_and_facts_share_theirs_among_answers() -> None:
    assert p.probability(LOG(0.5)) == pytest.approx(0.5)
    assert p.share_of_answers(LOG(0.5), [LOG(0.25), LOG(0.25)]) == pytest.approx(0.5)
    assert p.share_of_answers(-2000, [-2001]) == pytest.approx(1 / (1 + math.exp(-1))), "no underflow"


def test_recall_does_not_count_what_is_said_beyond_the_truth() -> None:
    assert p.rouge_l_recall("it was in Varnholt, I think", "In Varnholt.") == pytest.approx(1)
    assert p.rouge_l_recall("Varnholt in", "in Varnholt") == pytest.approx(0.5)
    assert p.rouge_l_recall("", "in Varnholt") == p.rouge_l_recall("Varnholt", "") == 0
    read = p.Read([said(said="it was in Varnholt", kind="passage")])
    assert read.values("verbatim").tolist() == [pytest.approx(2 * 2 / 6)]


def test_model_utility_is_the_harmonic_mean_of_nine_numbers() -> None:
    kept = [said(role="keep", wrong=(LOG(0.25),))]
    facts = [said(role="keep", group=g, wrong=(LOG(0.125), LOG(0.125))) for g in ("real authors", "world facts")]
    parts = [0.5, 1, 0.5] + 2 * [0.5 / 0.75, 1, 0.75]
    assert p.Read([*kept, *facts]).model_utility == pytest.approx(9 / sum(1 / x for x in parts))
    assert math.isnan(p.Read([said(role="keep")]).model_utility), "no wrong answers, no truth ratio"
    assert math.isnan(p.Read([]).model_utility)
    assert p.harmonic_mean([0.0, 1.0]) == 0


def test_choices_must_be_strictly_likeliest() -> None:
    right, tie = said(kind="choice", wrong=(LOG(0.2), LOG(0.3))), said(kind="choice", wrong=(LOG(0.5),))
    assert p.Read([right, tie]).values("choices").tolist() == [1, 0]
    assert p.Read([right, tie]).values("rouge").size == 0


def test_what_is_kept_and_groups_of_further_questions_do_not_count_as_forgotten() -> None:
    other = [said("k", role="keep", said="no"), said("g", role="keep", group="world facts"), said("u", role="unseen")]
    read = p.Read([said(), *other])
    assert read.values("knowledge").tolist() == [1]
    assert read.values("knowledge_kept").tolist() == [0]
    assert len(read.truth_ratios()) == 0


def test_the_least_likely_tokens_are_a_share_and_at_least_one() -> None:
    assert p.least_likely([-1, -2, -3, -4, -5]) == -4.5
    assert p.least_likely([-1]) == -1


def test_members_that_a_set_names_stand_in_for_what_is_to_be_forgotten_in_privleak_alone() -> None:
    own, member, kept = (
        said(kind="passage"),
        said("m", kind="passage", group=MEMBERS, log_probabilities=(LOG(0.1),)),
        said("k", role="keep"),
    )
    assert p.Read([own, kept]).membership("forget") == [LOG(0.5)]
    both = p.Read([own, member, kept])
    assert both.membership("forget") == [LOG(0.1)]
    assert both.membership("unseen") == []
    assert len(both.values("verbatim")) == len(both.values("probability")) == 1


def test_privleak_has_two_signs_and_forget_quality_a_distance_beside_p() -> None:
    assert privleak(0.9, 0.5) == pytest.approx(80)
    assert privleak(1 - 0.9, 1 - 0.5) == pytest.approx(-80), "as MUSE has it"
    assert forget_quality([0.1] * 20, [0.1] * 20) == (0, 1)
    distance, chance = forget_quality([0.1] * 20, [0.9] * 20)
    assert distance == 1
    assert chance < 1e-9
