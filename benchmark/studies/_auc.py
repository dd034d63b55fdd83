"""AUCs with intervals: over independent units, over clusters of them, and of the difference of two on the same units."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from ...leaderboard.membership import auc
from ...leaderboard.statistics import Estimate

Z = float(stats.norm.ppf(0.975))
NOTHING = Estimate(math.nan, math.nan, math.nan)


def auc_of(members: ArrayLike, others: ArrayLike) -> Estimate:
    """AUC with a score interval (Newcombe 2006, Statistics in Medicine 25:559, method 5), which keeps a width where the AUC is 1.

    Units are taken for independent. NaN if either group is empty.
    """
    a, b = np.asarray(members, float), np.asarray(others, float)
    if not len(a) or not len(b):
        return NOTHING
    found, m, n = auc(a, b), len(a), len(b)
    middle = (m + n) / 2 - 1

    def away(t: float) -> float:
        """How far the found value lies from t, in half widths of the interval that t would have."""
        variance = t * (1 - t) * (1 + middle * ((1 - t) / (2 - t) + t / (1 + t))) / (m * n)
        return abs(found - t) - Z * math.sqrt(variance)

    tiny = 1e-9  # at the found value itself nothing is away
    low = optimize.brentq(away, tiny, found - tiny) if found > 2 * tiny and away(tiny) > 0 else 0.0
    high = optimize.brentq(away, found + tiny, 1 - tiny) if found < 1 - 2 * tiny and away(1 - tiny) > 0 else 1.0
    return Estimate(found, float(low), float(high), count=m + n)  # type: ignore[arg-type]


def placements(members: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each member the share of others below it, for each other the share of members above it; ties count half."""
    both = stats.rankdata(np.concatenate([members, others]))
    of_members = (both[: len(members)] - stats.rankdata(members)) / len(others)
    return of_members, 1 - (both[len(members) :] - stats.rankdata(others)) / len(members)


def clustered_auc(members: ArrayLike, others: ArrayLike, clusters: tuple[Sequence[Hashable], Sequence[Hashable]]) -> Estimate:
    """AUC with an interval over clusters, such as memories that many models were asked about (Obuchowski 1997, Biometrics 53:567).

    `clusters` name the cluster of each member and of each other. Where all is told apart and nothing varies, the interval of as many
    independent units as there are clusters stands in. NaN if either group is empty.
    """
    a, b = np.asarray(members, float), np.asarray(others, float)
    if not len(a) or not len(b):
        return NOTHING
    found = auc(a, b)
    of_members, of_others = placements(a, b)
    error = math.sqrt(_variance(of_members - found, of_others - found, clusters))
    if not error > 0:
        least = auc_of(*(np.full(len(set(c)), float(k)) for k, c in zip((1, 0), clusters, strict=True)))
        width = 1 - least.low
        return Estimate(found, max(0.0, found - width), min(1.0, found + width), count=len(a) + len(b))
    return Estimate(found, max(0.0, found - Z * error), min(1.0, found + Z * error), count=len(a) + len(b))


def difference_of_aucs(mine: tuple[ArrayLike, ArrayLike], other: tuple[ArrayLike, ArrayLike]) -> Estimate:
    """The AUC of one measure minus that of another on the same units in the same order (DeLong et al. 1988, Biometrics 44:837).

    Each is (members, others). The interval has no width where both tell all units apart; then nothing is known of the difference: NaN.
    """
    pairs = [tuple(np.asarray(x, float) for x in given) for given in (mine, other)]
    if any(len(x) < 2 for pair in pairs for x in pair):
        return NOTHING
    (a, b), (c, d) = (placements(*pair) for pair in pairs)  # type: ignore[misc]
    members, others = a - c, b - d
    found = float(a.mean() - c.mean())
    error = math.sqrt(members.var(ddof=1) / len(members) + others.var(ddof=1) / len(others))
    if not error > 0:
        return Estimate(found, math.nan, math.nan, count=len(members) + len(others))
    return Estimate(found, found - Z * error, found + Z * error, count=len(members) + len(others))


def _variance(members: np.ndarray, others: np.ndarray, clusters: tuple[Sequence[Hashable], Sequence[Hashable]]) -> float:
    """Of an AUC, from deviations of placements, summed within clusters."""
    names = {c: i for i, c in enumerate(dict.fromkeys([*clusters[0], *clusters[1]]))}
    x, y = np.zeros(len(names)), np.zeros(len(names))
    np.add.at(x, [names[c] for c in clusters[0]], members)
    np.add.at(y, [names[c] for c in clusters[1]], others)
    of_members, of_others, every = len(set(clusters[0])), len(set(clusters[1])), len(names)
    if min(of_members, of_others) < 2:
        return 0.0
    m, n = len(members), len(others)
    own = of_members / (of_members - 1) * (x**2).sum() / m**2 + of_others / (of_others - 1) * (y**2).sum() / n**2
    return max(0.0, own + 2 * every / (every - 1) * (x * y).sum() / (m * n))
