"""Whether the benchmark's own score tells models that hold from models that never did: leak, and the excess that ranks go by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ....leaderboard.membership import auc
from ....leaderboard.statistics import Estimate
from ....leaderboard.study_results import AGREES, CANNOT_TELL, DISAGREES, OURS, Verdict, direction, said
from .._auc import NOTHING, Z, difference_of_aucs
from .._judging import LEAK, Judged, Told
from .._labelled import HOLDS, NEVER

GOAL = 0.99
EXCESS = "excess, black-box"
PUBLISHED = f"{OURS}an AUC of at least {GOAL}."
OWN = ("leak,", "excess,", "tokens beyond", "worst tokens")  # measures of the benchmark's own, and what they are made of
SHOWN = 5  # names in a verdict; the table has all


def score_verdicts(measures: Sequence[Told], judged: Judged) -> Iterator[Verdict]:
    """The excess and leak against the goal and against every single measure, and against each other."""
    names = {t.measure: t for t in measures}
    for name, words in ((EXCESS, "The excess over the twin at black-box, by which methods are ranked,"), (LEAK, "Leak at black-box")):
        if name in names:
            yield _goal(f"{words} tells models that hold from models that never did.", names[name].models)
            yield _goal(f"{words} tells memories that are held from memories that never were.", names[name].memories)
            yield _no_other(f"No other measure is ahead of {'the excess' if name == EXCESS else 'leak'}.", name, measures, judged)
    for t in measures:
        if t.measure.startswith("leak,") and t.measure != LEAK:
            yield _goal(f"Leak at {t.measure.removeprefix('leak, ')} tells models that hold from models that never did.", t.models)
    if LEAK not in names:
        claim = "Leak at black-box tells models that hold from models that never did."
        yield Verdict(claim, PUBLISHED, "leak needs 288 null values, and there are fewer", CANNOT_TELL)
    elif EXCESS in names:
        ahead = ahead_over_memories(judged, EXCESS, LEAK)
        yield direction("The excess tells memories better than leak does.", f"{OURS}why ranks go by it.", ahead, unit="of AUC", above=0)


def _no_other(claim: str, mine: str, measures: Sequence[Told], judged: Judged) -> Verdict:
    """Over models (DeLong, paired) and over memories (paired, jackknife over memories); what is surely ahead at either is named."""
    names = [t.measure for t in measures if not t.measure.startswith(OWN)]
    of_models = [(n, ahead_over_models(judged, n, mine)) for n in names]
    of_memories = [(n, ahead_over_memories(judged, n, mine)) for n in names if n in judged.memories]
    surely = [[n for n, e in found if e and e.low > 0] for found in (of_models, of_memories)]
    ahead = [n for found in (of_models, of_memories) for n, e in found if e and e.value > 0]
    words = f"surely ahead over models: {_listed(surely[0])}; over memories: {_listed(surely[1])}"
    return Verdict(claim, f"{OURS}the goal of this benchmark.", words, DISAGREES if any(surely) else CANNOT_TELL if ahead else AGREES)


def ahead_over_models(judged: Judged, first: str, second: str) -> Estimate:
    """The AUC over models of one measure minus that of another, on the models of which both are known (DeLong, paired)."""
    both = judged.models[[first, second]].dropna()
    groups = judged.groups.loc[both.index]
    return difference_of_aucs(*(tuple(both.loc[groups == g, name].to_numpy(float) for g in (HOLDS, NEVER)) for name in (first, second)))


def ahead_over_memories(judged: Judged, first: str, second: str) -> Estimate:
    """The AUC over memories of one measure minus that of another, with an interval over memories: jackknife, a memory left out at a time.

    The models and their trainings are given. NaN where a group has no memory that both know, or there are fewer than two memories; without
    limits where leaving out changes nothing.
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
    error = math.sqrt((len(units) - 1) * left.var()) or math.nan
    return Estimate(found, found - Z * error, found + Z * error, count=len(rows))


def _goal(claim: str, measured: Estimate) -> Verdict:
    """Met where the whole interval is at or above the goal, missed where it is below."""
    says = CANNOT_TELL if not measured or measured.low < GOAL <= measured.high else AGREES if measured.low >= GOAL else DISAGREES
    return Verdict(claim, PUBLISHED, f"AUC {said(measured)}", says)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more or "none"
