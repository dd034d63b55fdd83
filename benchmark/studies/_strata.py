"""An AUC within strata, such as models: only pairs of one stratum are compared, so that what sets strata apart tells nothing."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ...leaderboard.statistics import Estimate
from ._auc import NOTHING, Z, placements


@dataclass(frozen=True)
class Stratum:
    """Values of members and of others that may be compared with each other, and the cluster of each, such as the memory."""

    members: np.ndarray
    others: np.ndarray
    clusters: tuple[Sequence[Hashable], Sequence[Hashable]]

    @property
    def pairs(self) -> int:
        return len(self.members) * len(self.others)


def stratified_auc(strata: Sequence[Stratum]) -> Estimate:
    """The share of pairs within strata in which the member is higher, ties counting half: AUCs weighted by their pairs.

    The interval is over clusters, which may be in several strata, from placements (DeLong et al. 1988, Biometrics 44:837) as they deviate
    from the common AUC, so that a stratum with one member still counts as uncertain. NaN without a pair; an interval without width is none.
    """
    known = [s for s in strata if s.pairs]
    total = sum(s.pairs for s in known)
    if not total:
        return NOTHING
    places = [placements(s.members, s.others) for s in known]
    found = sum(float(of_members.mean()) * s.pairs for s, (of_members, _) in zip(known, places, strict=True)) / total
    pulls: dict[Hashable, float] = {}
    for s, sides in zip(known, places, strict=True):
        for clusters, values in zip(s.clusters, sides, strict=True):
            for c, value in zip(clusters, values, strict=True):
                pulls[c] = pulls.get(c, 0.0) + float(value - found) / len(values) * s.pairs / total
    many = len(pulls)
    error = math.sqrt(sum(p * p for p in pulls.values()) * many / max(1, many - 1))
    ends = (max(0.0, found - Z * error), min(1.0, found + Z * error)) if error > 0 else (math.nan, math.nan)
    return Estimate(found, *ends, count=sum(len(s.members) + len(s.others) for s in known))


def permuted_p(strata: Sequence[Stratum]) -> float:
    """One-sided p-value that members are not higher: of all ways of naming so many members in each stratum, the share in which the sum
    of their ranks (ties in the middle) is at least what it is. Exact, so neither draws nor the order of rows matter; NaN without a pair.
    """
    known = [s for s in strata if s.pairs]
    if not known:
        return math.nan
    observed, shares = 0, np.ones(1)
    for s in known:
        ranks = np.rint(2 * stats.rankdata(np.concatenate([s.members, s.others]))).astype(int)  # doubled, ranks of ties are whole
        observed += int(ranks[: len(s.members)].sum())
        shares = np.convolve(shares, _rank_sums(ranks, len(s.members)))
    return float(min(1.0, shares[observed:].sum()))


def _rank_sums(ranks: np.ndarray, count: int) -> np.ndarray:
    """The share of each sum, from 0 on, among the sums of `count` of the ranks."""
    ways = np.zeros((count + 1, int(np.sort(ranks)[-count:].sum()) + 1))
    ways[0, 0] = 1.0
    for i, rank in enumerate(ranks):
        for n in range(min(count, i + 1), 0, -1):
            ways[n, rank:] += ways[n - 1, : ways.shape[1] - rank]
    return ways[count] / ways[count].sum()
