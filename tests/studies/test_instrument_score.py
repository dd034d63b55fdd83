"""The verdicts on the benchmark's own score: what it misses where a little of a text came back, and who is ahead of whom."""

from __future__ import annotations

import numpy as np
import pytest

from palimpsest.benchmark.studies._auc import difference_of_aucs
from palimpsest.benchmark.studies._judging import LEAK, Judged, told
from palimpsest.benchmark.studies._labelled import HOLDS, NEVER
from palimpsest.benchmark.studies.pages.instrument_score import EXCESS, ahead_over_memories, ahead_over_models, score_verdicts
from palimpsest.leaderboard.membership import auc
from palimpsest.leaderboard.study_results import AGREES, CANNOT_TELL, DISAGREES
from tests.studies.test_instrument import ACCESS, frame


def a_little_back() -> Judged:
    """A model that holds gives 7 tokens of every second memory: more than chance does, and too few to be recovered."""
    rows = frame()
    little = rows.model.eq("noised") & rows.role.eq("forget") & rows.memory.str.extract(r"(\d+)$")[0].astype(int).mod(2).eq(0)
    for attack in ACCESS:
        rows.loc[little, f"matched {attack}"] = 7
    return Judged.of(rows, ACCESS)


def test_tokens_see_what_recovered_or_not_does_not() -> None:
    judged = a_little_back()
    found = ahead_over_memories(judged, EXCESS, LEAK)
    rows = judged.memories[judged.memories.group.isin([HOLDS, NEVER])]
    by_hand = [auc(rows[rows.group == HOLDS][name], rows[rows.group == NEVER][name]) for name in (EXCESS, LEAK)]
    assert found.value == pytest.approx(by_hand[0] - by_hand[1])
    assert by_hand[1] == pytest.approx(1 - 48 / 288 / 2), "48 of 288 memories that are held tie with those that are not"
    assert 0 < found.low < found.value < found.high
    wide = ahead_over_models(judged, "exact", EXCESS)
    assert wide.value == 0, "both tell all models apart"
    other = ahead_over_memories(judged, LEAK, EXCESS)
    assert (other.value, other.low, other.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_the_interval_is_over_memories_and_not_over_answers() -> None:
    judged = a_little_back()
    once = ahead_over_memories(judged, EXCESS, LEAK)
    judged.__dict__["memories"] = judged.memories.loc[np.repeat(judged.memories.index, 4)].reset_index(drop=True)
    again = ahead_over_memories(judged, EXCESS, LEAK)
    assert (again.value, again.low, again.high) == pytest.approx((once.value, once.low, once.high)), "copies add nothing"


def test_where_each_memory_has_one_answer_the_interval_is_delongs() -> None:
    judged = a_little_back()
    rows = judged.memories[judged.memories.group.isin([HOLDS, NEVER])]
    alone = rows.groupby(["seed", "memory"], sort=False).nth([0]).reset_index(drop=True)
    alone["memory"], alone["group"] = [f"m{i}" for i in alone.index], np.where(alone.index % 2, HOLDS, NEVER)
    rng = np.random.default_rng(0)
    alone[EXCESS], alone[LEAK] = rng.normal(alone.index % 2, 1), rng.normal(0, 1, len(alone))
    judged.__dict__["memories"] = alone
    found = ahead_over_memories(judged, EXCESS, LEAK)
    pairs = [tuple(alone.loc[alone.group == g, name].to_numpy() for g in (HOLDS, NEVER)) for name in (EXCESS, LEAK)]
    known = difference_of_aucs(*pairs)  # type: ignore[arg-type]
    assert found.value == pytest.approx(known.value)
    assert found.low == pytest.approx(known.low, abs=0.01)


def test_of_one_memory_nothing_is_known() -> None:
    judged = a_little_back()
    judged.__dict__["memories"] = judged.memories[(judged.memories.seed == 0) & (judged.memories.memory == "forget 0")]
    assert not ahead_over_memories(judged, EXCESS, LEAK)


def test_the_page_says_whether_ranks_go_by_the_better_one() -> None:
    judged = a_little_back()
    says = {v.claim: v.says for v in score_verdicts(told(judged), judged)}
    which = "The excess over the twin at black-box, by which methods are ranked,"
    assert says["The excess tells memories better than leak does."] == AGREES
    assert says[f"{which} tells models that hold from models that never did."] == CANNOT_TELL, "an AUC of 1, of nine and six models"
    assert says[f"{which} tells memories that are held from memories that never were."] == AGREES
    assert says["Leak at black-box tells memories that are held from memories that never were."] == DISAGREES
    assert says["No other measure is ahead of leak."] == DISAGREES, "exact match sees the memories that gave 7 tokens"
    assert says["No other measure is ahead of the excess."] == DISAGREES, "7 tokens less the twin's chance may be few"
    plain = Judged.of(frame(), ACCESS)
    alike = {v.claim: v.says for v in score_verdicts(told(plain), plain)}
    assert alike["The excess tells memories better than leak does."] == CANNOT_TELL, "both tell all apart"
