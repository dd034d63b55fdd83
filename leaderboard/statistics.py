"""Intervals and tests. Rates are shares in [0, 1], lengths are tokens; nothing here knows what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

Interval = tuple[float, float]
NOWHERE: Interval = (float("nan"), float("nan"))


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95% interval, in the unit of the values; NaN where nothing was measured."""

    value: float
    low: float
    high: float
    by_seed: tuple[float, ...] = ()
    count: int = 0  # memories or documents, all seeds together

    @property
    def spread(self) -> float:
        """Largest minus smallest seed; NaN for one seed."""
        return max(self.by_seed) - min(self.by_seed) if len(self.by_seed) > 1 else float("nan")

    def __bool__(self) -> bool:
        return bool(np.isfinite(self.value))

    def scaled(self, factor: float) -> Estimate:
        """The same estimate in another unit."""
        seeds = tuple(v * factor for v in self.by_seed)
        return Estimate(self.value * factor, self.low * factor, self.high * factor, seeds, self.count)

    def within(self, lowest: float, highest: float) -> Estimate:
        """The same estimate with its interval cut at what the values can be."""
        low, high = np.clip([self.low, self.high], lowest, highest)
        return Estimate(self.value, float(low), float(high), self.by_seed, self.count)


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a share (Wilson 1927, JASA 22:209): 0 of 100 gives at most 3.7%; NaN for n = 0."""
    if n == 0:
        return NOWHERE
    found = stats.binomtest(round(successes), n).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def newcombe(mine: ArrayLike, other: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval of the difference of two shares, from 0/1 values (Newcombe 1998, Statistics in Medicine 17:873, method 10).

    The pairing is left out, which is conservative when the two agree more than by chance.
    """
    a, b = np.asarray(mine, float), np.asarray(other, float)
    if not len(a) or not len(b):
        return NOWHERE
    (low_a, high_a), (low_b, high_b) = wilson(a.sum(), len(a), confidence), wilson(b.sum(), len(b), confidence)
    p, q = a.mean(), b.mean()
    return float(p - q - np.hypot(p - low_a, high_b - q)), float(p - q + np.hypot(high_a - p, q - low_b))


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's interval of a mean (Student 1908), in the unit of the values; NaN below two values."""
    x = np.asarray(values, float)
    if len(x) < 2:
        return NOWHERE
    half = stats.t.ppf((1 + confidence) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return float(x.mean() - half), float(x.mean() + half)


def welch(mine: ArrayLike, other: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval of the difference of two means of unpaired values (Welch 1947, Biometrika 34:28); NaN where neither side varies."""
    if min(np.size(mine), np.size(other)) < 2 or not (np.ptp(mine) or np.ptp(other)):
        return NOWHERE
    found = stats.ttest_ind(mine, other, equal_var=False).confidence_interval(confidence)
    return float(found.low), float(found.high)


def bootstrap_interval(of: Callable[..., float], *values: np.ndarray, resamples: int = 999, confidence: float = 0.95) -> Interval:
    """Percentile bootstrap interval of a figure over texts; `values` are of the same texts, and drawn together.

    NaN where a draw has no figure, or all have the same one: an interval of width zero would claim certainty.
    """
    if not any(len(v) and np.ptp(v) for v in values):
        return NOWHERE
    found = stats.bootstrap(
        values, of, n_resamples=resamples, vectorized=False, paired=True, confidence_level=confidence, method="percentile", rng=0
    ).confidence_interval
    return (float(found.low), float(found.high)) if found.low < found.high else NOWHERE


def mcnemar(mine: ArrayLike, other: ArrayLike) -> float:
    """Two-sided exact p-value that paired 0/1 values differ in their rate (McNemar 1947; exact binomial form)."""
    a, b = np.asarray(mine, bool), np.asarray(other, bool)
    only_mine, only_other = int((a & ~b).sum()), int((b & ~a).sum())
    return float(stats.binomtest(only_mine, only_mine + only_other).pvalue) if only_mine + only_other else 1.0


def paired_permutation(differences: ArrayLike, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value that paired differences have mean 0, by flips of sign (Fisher 1935); NaN without a pair.

    Every flip for few pairs, else random ones with a fixed seed, the observed one counted among them.
    """
    d = np.asarray(differences, float)
    if len(d) == 0:
        return float("nan")
    exact = 2 ** len(d) <= resamples
    if exact:
        up = np.arange(2 ** len(d))[:, None] >> np.arange(len(d)) & 1
    else:
        drawn = np.frombuffer(np.random.default_rng(seed).bytes(resamples * -(-len(d) // 8)), np.uint8)
        up = np.unpackbits(drawn.reshape(resamples, -1), axis=1, count=len(d))
    flipped = np.abs(2 * (up.astype(float) @ d) - d.sum())
    as_far = int((flipped >= abs(d.sum()) - 1e-9 * np.abs(d).sum()).sum())
    return as_far / len(up) if exact else (as_far + 1) / (len(up) + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979, Scandinavian Journal of Statistics 6:65), in the order given."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    raised = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(raised, 1.0)
    return adjusted.tolist()


def over_seeds(groups: Sequence[ArrayLike], within: Callable[[np.ndarray], Interval]) -> Estimate:
    """The mean of seed means, with Student's interval over seeds; of one seed the interval `within` its memories.

    Seeds that agree to the last digit would give an interval of width zero; then all their memories together stand in. A hierarchical
    bootstrap covers too little at every number of seeds that a suite has (`coverage.py`).
    """
    data = [g for g in (np.asarray(g, float) for g in groups) if len(g)]
    if not data:
        return Estimate(float("nan"), *NOWHERE)
    means = [float(g.mean()) for g in data]
    interval = within(np.concatenate(data)) if len(set(means)) == 1 else t_interval(means)
    return Estimate(float(np.mean(means)), *interval, tuple(means), sum(map(len, data)))


def rate(groups: Sequence[ArrayLike]) -> Estimate:
    """A share from 0/1 values, one array per seed; the interval stays within [0, 1]."""
    return over_seeds(groups, lambda x: wilson(x.sum(), len(x))).within(0, 1)


def mean(groups: Sequence[ArrayLike]) -> Estimate:
    """A mean of real values, one array per seed, in the unit of the values."""
    return over_seeds(groups, t_interval)


def figure(values: Sequence[float], within: Interval = NOWHERE) -> Estimate:
    """One number per seed, such as an AUC; `within` is its interval over texts, for where seeds say nothing."""
    return over_seeds([[v] for v in values if np.isfinite(v)], lambda _: within)


def seed_values(values: pd.Series) -> dict[int, np.ndarray]:
    """Seed (a level of the index) -> its values in order, without what was not measured."""
    x, seeds = values.to_numpy(float), values.index.get_level_values("seed").to_numpy(int)
    known = ~np.isnan(x)
    return {int(seed): x[known & (seeds == seed)] for seed in np.unique(seeds[known])}


def by_seed(values: pd.Series) -> list[np.ndarray]:
    """One array of values per seed, as intervals over seeds are made of."""
    return list(seed_values(values).values())


def seed_means(values: pd.Series) -> dict[int, float]:
    """Seed -> the mean of its values."""
    return {seed: float(x.mean()) for seed, x in seed_values(values).items()}


def difference(mine: Sequence[ArrayLike], other: Sequence[ArrayLike]) -> Estimate:
    """The first share minus the second, from 0/1 values on the same memories, one array per seed of each."""
    groups = [np.asarray(a, float) - np.asarray(b, float) for a, b in zip(mine, other, strict=True)]

    def pooled(_: np.ndarray) -> Interval:
        return newcombe(np.concatenate([np.asarray(a) for a in mine]), np.concatenate([np.asarray(b) for b in other]))

    return over_seeds(groups, pooled).within(-1, 1)
