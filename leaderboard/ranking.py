"""Who stands where among the methods within budget, and how firmly. Works on matched lengths in tokens; less is better.

docs/metrics.md, "Ranking", gives the rules and the reasons.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import combinations, permutations

import numpy as np
import pandas as pd

from ..benchmark.common.budget import Budget
from .bootstrap import resampling_weights
from .statistics import holm, mcnemar, paired_permutation

APART = 0.05  # adjusted p-value below which two methods are told apart
DRAWS = 2000
BUDGETS = (Budget(2, 10), Budget(5, 25), Budget(10, 50))  # over which the ranks' stability is shown, beside the suite's own
NO_BUDGET = "none"


@dataclass(frozen=True)
class Place:
    """The ranks that a method may have."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}–{self.last}" if self.first < self.last else str(self.first)


@dataclass(frozen=True)
class Draws:
    """What becomes of a method's rank when seeds, and memories within them, are drawn anew."""

    first: float  # share of the draws in which nobody stands before it
    middle: Place  # from the 2.5th to the 97.5th percentile of its ranks


@dataclass(frozen=True)
class Ranking:
    """The methods within budget, and the same under other choices."""

    budget: Budget
    places: dict[str, Place] = field(default_factory=dict)
    over: dict[str, tuple[str, ...]] = field(default_factory=dict)  # methods that are not ranked -> what exceeds its budget
    draws: dict[str, Draws] = field(default_factory=dict)
    by_budget: dict[str, dict[str, Place]] = field(default_factory=dict)  # budgets in words -> the methods within them
    circle: tuple[str, str, str] | None = None  # the first ties with the second and that with the third, yet first and third are apart


Apart = set[tuple[str, str]]  # (better, worse)


def rank(lengths: Mapping[str, pd.DataFrame], twin: pd.Series, costs: Mapping[str, tuple[float, float]], budget: Budget) -> Ranking:
    """Rank methods by their matched `lengths` and the longest of the twin (see `beyond`); `costs`: damage in %, collateral in points."""
    over = {m: budget.exceeded(*costs[m]) for m in lengths}
    within = [m for m in lengths if not over[m]]
    priced = [m for m in lengths if np.isfinite(costs[m]).all()]
    tests = {(a, b): found for a, b in combinations(priced, 2) if (found := test(lengths[a], lengths[b], twin))}
    apart = told_apart(tests, within)
    fitting = {str(b): [m for m in lengths if not b.exceeded(*costs[m])] for b in BUDGETS}
    return Ranking(
        budget=budget,
        places=places(within, apart),
        over={m: words for m, words in over.items() if words},
        draws=redrawn(within, beyond([lengths[m] for m in within], twin)),
        by_budget={words: places(ms, told_apart(tests, ms)) for words, ms in (fitting | {NO_BUDGET: priced}).items()},
        circle=intransitive(within, apart),
    )


def beyond(lengths: Sequence[pd.DataFrame], twin: pd.Series) -> list[pd.Series]:
    """Of each method, by memory, the tokens of its longest match beyond the twin's, at least 0, over the questions that all were asked.

    `lengths`: a row for each seed and memory, a column for each attack, NaN where it was not asked; `twin`: its longest matches, nothing
    where there is none. So nothing is gained by being asked less, nor by saying less than a model that never saw the texts.
    """
    if not lengths:
        return []
    index = reduce(pd.Index.intersection, (t.index for t in lengths))
    attacks = [a for a in lengths[0] if all(a in t for t in lengths)]
    same = [t.loc[index, attacks] for t in lengths]
    asked = np.logical_and.reduce([t.notna() for t in same])
    floor = twin.reindex(index).fillna(0)
    return [(t.where(asked).max(axis=1) - floor).clip(lower=0).dropna() for t in same]


def test(mine: pd.DataFrame, other: pd.DataFrame, twin: pd.Series) -> tuple[float, float] | None:
    """p-value that two methods lose as much on the same memories, and the mean difference; None if both were asked about none."""
    a, b = beyond([mine, other], twin)
    return (p_value((a - b).to_numpy(float)), float((a - b).mean())) if len(a) else None


def p_value(differences: np.ndarray) -> float:
    """That paired differences have mean 0: flips of sign, which for differences of -1, 0 and 1 are McNemar's test and so exact."""
    if np.isin(differences, (-1, 0, 1)).all():
        return mcnemar(differences > 0, differences < 0)
    return paired_permutation(differences)


def told_apart(tests: Mapping[tuple[str, str], tuple[float, float]], among: Collection[str]) -> Apart:
    """Which of these methods are surely better than which; `tests` map a pair to its p-value and mean difference, first minus second."""
    pairs = {pair: found for pair, found in tests.items() if pair[0] in among and pair[1] in among}
    adjusted = holm([p for p, _ in pairs.values()])
    return {(a, b) if difference < 0 else (b, a) for ((a, b), (_, difference)), p in zip(pairs.items(), adjusted, strict=True) if p < APART}


def places(methods: Collection[str], apart: Apart) -> dict[str, Place]:
    """From one more than the methods surely better to all but those surely worse: each method by its own pairs."""
    better, worse = ({m: sum(pair[side] == m for pair in apart) for m in methods} for side in (1, 0))
    return {m: Place(1 + better[m], len(methods) - worse[m]) for m in methods}


def intransitive(methods: Iterable[str], apart: Apart) -> tuple[str, str, str] | None:
    """Three methods of which the first ties with the second, the second with the third, and first and third are told apart."""

    def tie(a: str, b: str) -> bool:
        return (a, b) not in apart and (b, a) not in apart

    return next(((a, b, c) for a, b, c in permutations(methods, 3) if (a, c) in apart and tie(a, b) and tie(b, c)), None)


def redrawn(methods: Sequence[str], values: Sequence[pd.Series]) -> dict[str, Draws]:
    """Ranks over draws of seeds and of memories within them, the same ones for all methods; `values` by memory, of all the same."""
    table = pd.DataFrame(dict(zip(methods, values, strict=True)))
    if not len(table):
        return {}
    table = table.sort_index(level="seed")
    sizes = table.groupby(level="seed").size()
    totals = resampling_weights(sizes.tolist(), DRAWS) @ table.to_numpy(float)  # [draws, methods]
    ranks = 1 + (totals[:, :, None] > totals[:, None, :] + 1e-9).sum(axis=2)  # of equals each has the better rank
    low, high = np.quantile(ranks, [0.025, 0.975], axis=0, method="nearest")
    return {m: Draws(float((ranks[:, i] == 1).mean()), Place(int(low[i]), int(high[i]))) for i, m in enumerate(methods)}
