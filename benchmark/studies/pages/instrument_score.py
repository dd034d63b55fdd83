"""Whether the benchmark's own score tells models that hold from models that never did: leak, and the excess that ranks go by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ....leaderboard.membership import auc
from ....leaderboard.statistics import Estimate
from ....leaderboard.study_results import AGREES, CANNOT_TELL, DISAGREES, Verdict, direction, said
from .._auc import NOTHING, Z
from .._judging import LEAK, Judged, Told
from .._labelled import HOLDS, NEVER

GOAL = 0.99
EXCESS = "excess, black-box"
PUBLISHED = f"The goal of this benchmark: an AUC of at least {GOAL}."


def score_verdicts(measures: Sequence[Told], judged: Judged) -> Iterator[Verdict]:
    """Leak and excess against the goal, leak against every single measure, and the excess against leak."""
    yield from _of_excess(measures, judged)
    leaks = [t for t in measures if t.measure.startswith("leak,")]
    if not leaks:
        claim = "Leak tells models that hold from models that never did."
        yield Verdict(claim, PUBLISHED, "leak needs 288 null values, and there are fewer", CANNOT_TELL)
        return
    for t in leaks:
        yield _goal(f"Leak at {t.measure.removeprefix('leak, ')} tells models that hold from models that never did.", t.models)
    black = next((t for t in leaks if t.measure == LEAK), leaks[0])
    yield _goal("Leak tells memories that are held from memories that never were.", black.memories)
    others = [t for t in measures if not t.measure.startswith(("leak,", "tokens beyond"))]
    ahead = [t for t in others if t.behind_leak and t.behind_leak.value < 0]
    surely = [t for t in ahead if t.behind_leak.high < 0]
    best = max(others, key=lambda t: t.models.value)
    words = f"leak {black.models.value:.3f}, the best other, {best.measure}, {best.models.value:.3f}; ahead of leak: {_names(ahead)}"
    says = DISAGREES if surely else CANNOT_TELL if ahead or best.models.value == black.models.value else AGREES
    yield Verdict("No single measure is ahead of leak.", "The goal of this benchmark.", f"{words}; surely: {_names(surely)}", says)


def _of_excess(measures: Sequence[Told], judged: Judged) -> Iterator[Verdict]:
    found = next((t for t in measures if t.measure == EXCESS), None)
    if found is None:
        return
    which = "The excess over the twin at black-box, by which methods are ranked,"
    yield _goal(f"{which} tells models that hold from models that never did.", found.models)
    yield _goal(f"{which} tells memories that are held from memories that never were.", found.memories)
    if LEAK in judged.memories:
        ahead = ahead_over_memories(judged, EXCESS, LEAK)
        yield direction("The excess tells memories better than leak does.", "Why ranks go by it (AUC, paired).", ahead, above=0)


def ahead_over_memories(judged: Judged, first: str, second: str) -> Estimate:
    """The AUC over memories of one measure minus that of another, with an interval over memories: jackknife, a memory left out at a time.

    NaN where a group has no memory that both know, or there are fewer than two memories.
    """
    rows = judged.memories[judged.memories.group.isin([HOLDS, NEVER])].dropna(subset=[first, second])
    holds, names = (rows.group == HOLDS).to_numpy(), (rows.seed.astype(str) + " " + rows.memory).to_numpy()
    values = rows[first].to_numpy(float), rows[second].to_numpy(float)

    def difference(which: np.ndarray) -> float:
        mine, other = (auc(v[which & holds], v[which & ~holds]) for v in values)
        return mine - other

    units = np.unique(names)
    if len(units) < 2 or not holds.any() or holds.all():
        return NOTHING
    found, left = difference(np.full(len(rows), True)), np.array([difference(names != name) for name in units])
    error = math.sqrt((len(units) - 1) * left.var())
    return Estimate(found, found - Z * error, found + Z * error, count=len(rows))


def _goal(claim: str, measured: Estimate) -> Verdict:
    """Met where the value is; surely missed where the whole interval is below; in between it cannot be told."""
    says = CANNOT_TELL if not measured or measured.value < GOAL <= measured.high else AGREES if measured.value >= GOAL else DISAGREES
    return Verdict(claim, PUBLISHED, f"AUC {said(measured)}", says)


def _names(found: Sequence[Told]) -> str:
    return ", ".join(t.measure for t in found) or "none"
