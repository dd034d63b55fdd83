"""Differences of two runs on the same memories, with intervals of any confidence and the p-values that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from .statistics import NOWHERE, Estimate, Interval, t_interval

SURE = 1 - 1e-9  # confidence above which a p-value is not told apart from 0


@dataclass(frozen=True)
class Paired:
    """A mean difference, new minus old. `interval` gives the interval of a confidence; a count, which is no sample, is not `tested`."""

    value: float
    interval: Callable[[float], Interval]
    by_seed: tuple[float, ...] = ()
    count: int = 0
    tested: bool = True

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.value, *self.interval(0.95), self.by_seed, self.count)

    def p_above(self, limit: float) -> float:
        """One-sided p-value of a true difference of at most `limit`: where the interval's lower end meets it. 1 where nothing says more."""
        return self._p(limit, lambda confidence: self.interval(confidence)[0] - limit) if self.value > limit else 1.0

    def p_below(self, limit: float) -> float:
        """The same for a true difference of at least `limit`."""
        return self._p(limit, lambda confidence: limit - self.interval(confidence)[1]) if self.value < limit else 1.0

    def _p(self, limit: float, room: Callable[[float], float]) -> float:
        """(1 − c) / 2 at the confidence c at which no room is left between the interval and the limit."""
        if not np.isfinite(room(0.95)):
            return 1.0
        if room(SURE) >= 0:
            return (1 - SURE) / 2
        found: Any = optimize.brentq(room, 1e-9, SURE, xtol=1e-12) if room(1e-9) > 0 else 0.0
        return (1 - float(found)) / 2


def newcombe_paired(new: ArrayLike, old: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval of the difference of two shares from paired 0/1 values (Newcombe 1998, Statistics in Medicine 17:2635, method 10).

    Wilson's intervals of both shares, put together with the correlation of the pairs (corrected for continuity). NaN without a pair.
    """
    a, b = np.asarray(new, bool), np.asarray(old, bool)
    n = len(a)
    if not n:
        return NOWHERE
    p, q = float(a.mean()), float(b.mean())
    (low_a, high_a), (low_b, high_b) = _wilson(p, n, confidence), _wilson(q, n, confidence)
    both, neither, only_a, only_b = (float((x & y).sum()) for x, y in ((a, b), (~a, ~b), (a, ~b), (~a, b)))
    cross = both * neither - only_a * only_b
    cross = max(cross - n / 2, 0.0) if cross > 0 else cross
    spread = np.sqrt((both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither))
    phi = cross / spread if spread else 0.0

    def half(one: float, other: float) -> float:
        return float(np.sqrt(max(one**2 - 2 * phi * one * other + other**2, 0.0)))

    return p - q - half(p - low_a, high_b - q), p - q + half(high_a - p, q - low_b)


def _wilson(share: float, n: int, confidence: float) -> Interval:
    """As `statistics.wilson`, by its closed form, since a p-value asks for some fifty of them."""
    z2 = float(stats.norm.ppf((1 + confidence) / 2)) ** 2
    centre, half = share + z2 / (2 * n), float(np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))))
    return (centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)


def over_pairs(new: Sequence[ArrayLike], old: Sequence[ArrayLike], scale: float = 1.0) -> Paired:
    """The mean difference over all memories, times `scale`: one array per seed of each side, on the same memories.

    Newcombe's paired interval where all values are 0 or 1, else Student's, both over memories: what is compared are these trainings.
    An interval over seeds would speak of other trainings too; with three seeds it sees next to nothing.
    """
    pairs = [(np.asarray(a, float), np.asarray(b, float)) for a, b in zip(new, old, strict=True) if len(np.asarray(a))]
    if not pairs:
        return Paired(np.nan, lambda confidence: NOWHERE)
    mine, other = (np.concatenate([p[i] for p in pairs]) for i in (0, 1))
    shares = bool(np.isin(np.concatenate([mine, other]), (0.0, 1.0)).all())

    def interval(confidence: float) -> Interval:
        low, high = newcombe_paired(mine, other, confidence) if shares else t_interval(mine - other, confidence)
        return low * scale, high * scale

    return Paired(float((mine - other).mean()) * scale, interval, tuple(float((a - b).mean()) * scale for a, b in pairs), len(mine))


def over_documents(differences: Sequence[float], errors: Sequence[float]) -> Paired:
    """The mean of one difference per seed, Student's interval over seeds. One seed, or seeds alike: a normal one by errors over documents.

    All seeds read the same documents, so these say less about the difference of two trainings than seeds do.
    """
    value = float(np.mean(differences)) if len(differences) else np.nan

    def interval(confidence: float) -> Interval:
        if len(set(differences)) > 1:
            return t_interval(differences, confidence)
        half = stats.norm.ppf((1 + confidence) / 2) * float(np.mean(errors)) / np.sqrt(len(errors)) if len(errors) else np.nan
        return value - half, value + half

    return Paired(value, interval, tuple(differences), len(differences))


def counted(values: Sequence[float]) -> Paired:
    """The mean of counts, one per seed, that another run would repeat exactly: its interval is the point."""
    value = float(np.mean(values)) if len(values) else np.nan
    return Paired(value, lambda confidence: (value, value), tuple(values), len(values), tested=False)
