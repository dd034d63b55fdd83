"""How well a score tells texts that a model was given from texts that it was not. Scores are higher for likelier members."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def auc(members: ArrayLike, others: ArrayLike) -> float:
    """The chance that a member scores higher than a non-member, ties counted half (Mann and Whitney 1947); NaN if either is empty."""
    a, b = np.asarray(members, float), np.asarray(others, float)
    if not len(a) or not len(b):
        return math.nan
    ranks = stats.rankdata(np.concatenate([a, b]))
    return float((ranks[: len(a)].sum() - len(a) * (len(a) + 1) / 2) / (len(a) * len(b)))


def auc_error(members: ArrayLike, others: ArrayLike) -> float:
    """Standard error of the AUC over texts (DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44:837); NaN below two texts."""
    a, b = np.asarray(members, float), np.asarray(others, float)
    if len(a) < 2 or len(b) < 2:
        return math.nan
    both = stats.rankdata(np.concatenate([a, b]))
    of_members = (both[: len(a)] - stats.rankdata(a)) / len(b)  # for each member, the share of others below it
    of_others = 1 - (both[len(a) :] - stats.rankdata(b)) / len(a)
    return float(np.sqrt(of_members.var(ddof=1) / len(a) + of_others.var(ddof=1) / len(b)))


def caught(members: ArrayLike, others: ArrayLike, false_positives: float) -> np.ndarray:
    """True for members above a threshold that at most this share of the others exceeds; its mean is the TPR at that FPR.

    No interpolation: with 64 others, 1% means that none of them may be above.
    """
    a, b = np.asarray(members, float), np.sort(np.asarray(others, float))[::-1]
    allowed = math.floor(false_positives * len(b) + 1e-9)
    return a > b[allowed] if allowed < len(b) else np.full(len(a), len(b) > 0)


def chance_of_lowest(k: int, members: int, others: int) -> float:
    """The chance that at least the k lowest of members + others equally distributed scores are all members'."""
    return math.comb(members, k) / math.comb(members + others, k)


def privleak(unlearned: float, retrained: float) -> float:
    """100 · (AUC_u − AUC_r) / AUC_r in % (Shi et al. 2024, MUSE, arXiv 2407.06460), with the AUC of `auc`: members score high.

    Above 0 the forget set is easier to tell from unseen text than it should be (too little was forgotten); below 0 it stands
    out as unlikelier than unseen text (too much). MUSE itself uses 1 − AUC, which turns the sign and changes the size.
    """
    return 100 * (unlearned - retrained) / retrained if retrained else math.nan


def forget_quality(unlearned: ArrayLike, retrained: ArrayLike) -> tuple[float, float]:
    """Distance D and p-value of the two-sample Kolmogorov-Smirnov test (Maini et al. 2024, TOFU, arXiv 2401.06121).

    A large p says that the two models cannot be told apart by this statistic, or that there are few texts: read D beside it.
    """
    a, b = (x[np.isfinite(x)] for x in (np.asarray(unlearned, float), np.asarray(retrained, float)))
    if not len(a) or not len(b):
        return math.nan, math.nan
    found: Any = stats.ks_2samp(a, b)
    return float(found.statistic), float(found.pvalue)
