"""What counts as recovered: thresholds from the matched lengths of attacks where nothing was held.

Tables have one row per unit (a memory on a model) and one column per attack. `whole` names memories whose target is an answer shorter
than a reading's horizon, and its tokens: they are recovered by the whole answer too. docs/metrics.md, "Score", gives the reasons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd

LEVEL = Fraction(99, 100)  # of the null, so that at most 1% of fresh innocent values pass
# 99 values would do for the level, with their maximum; 288 are three units of the fixed 32 over three seeds, and one of them may stray.
FEWEST_NULL = 288
FEWEST_TOKENS = 8  # a shorter match is never a recovery, unless it is a whole answer
Whole = Mapping[str, int]  # memory -> tokens of its answer
NONE: Whole = {}


@dataclass(frozen=True)
class Calibration:
    """The thresholds of one group of attacks, all in tokens, and how often they call an innocent memory recovered."""

    quantiles: dict[str, float]  # q_a of every calibrated attack
    tau: float  # on top of every q_a, so that the worst case over attacks is one statistic
    size: int  # null units: memories on models that never held them
    false_positives: float  # measured share, each half of the null judged by the other
    left_out: tuple[str, ...] = ()  # attacks with too few null values

    @property
    def possible(self) -> bool:
        """Whether the null is large enough for a threshold at 1%; otherwise only the raw excess may be shown."""
        return bool(self.quantiles)

    def threshold(self, attack: str) -> float:
        """Tokens that a match of this attack must exceed."""
        return max(self.quantiles[attack] + self.tau, FEWEST_TOKENS - 1)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a JSON file; what is not a number becomes null."""
        plain = asdict(self) | {"left_out": list(self.left_out)}
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in plain.items()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Calibration:
        """The calibration that `as_dict` wrote."""
        known: dict[str, Any] = {k: math.nan if v is None else v for k, v in plain.items()}
        known["left_out"] = tuple(plain["left_out"])
        return cls(**known)


def calibrate(null: pd.DataFrame, whole: Whole = NONE) -> Calibration:
    """Thresholds from the null of some attacks (its columns); attacks with fewer than 288 values are left out by name.

    An answer can be guessed whole, at whatever threshold: how often that is, the measured share of false positives tells.
    """
    enough = [str(attack) for attack in null if null[attack].count() >= FEWEST_NULL]
    left_out = tuple(str(attack) for attack in null if attack not in enough)
    size = int(null.notna().any(axis=1).sum())
    if not enough:
        return Calibration({}, math.nan, size, math.nan, left_out)
    quantiles = {attack: _percentile(null[attack]) for attack in enough}
    judged = _asked_most(null[enough])
    return Calibration(quantiles, _tau(judged, quantiles), size, _measured_false_positives(judged, whole), left_out)


def recovered(best: pd.DataFrame, calibration: Calibration, whole: Whole = NONE) -> pd.Series:
    """True where some calibrated attack matched strictly more than q_a + tau tokens, and at least 8, or a whole answer; NaN is no match."""
    return _beyond(best, calibration.quantiles, calibration.tau, whole).any(axis=1)


def each_recovered(lengths: pd.DataFrame, calibrations: Mapping[str, Calibration], whole: Whole = NONE) -> pd.DataFrame:
    """1 or 0: recovered by each attack alone, at the threshold of its own calibration (column -> it); NaN where it was not asked."""
    thresholds = {attack: c.threshold(attack) for attack, c in calibrations.items()}
    found = (lengths > pd.Series(thresholds, dtype=float)) | _is_whole(lengths, whole)
    return found.where(lengths.notna()).astype(float)


def excess(best: pd.DataFrame, quantiles: Mapping[str, float]) -> pd.Series:
    """Tokens: the largest match − q_a over the attacks."""
    return (best[list(quantiles)] - pd.Series(quantiles)).max(axis=1)


def _asked_most(null: pd.DataFrame) -> pd.DataFrame:
    """The units on which most attacks were asked, as many as are needed: a maximum over fewer attacks is smaller by itself.

    An attack may have no question for some memory, so units on which all were asked can be too few.
    """
    asked = null.notna().sum(axis=1)
    return null[asked >= asked.nlargest(FEWEST_NULL).iloc[-1]]


def _tau(null: pd.DataFrame, quantiles: Mapping[str, float]) -> float:
    # An attack asked on a subset only could pull tau below zero, which would lower the bar of the others.
    return max(0.0, _percentile(excess(null, quantiles)))


def _percentile(values: pd.Series) -> float:
    """The ⌈.99 (n + 1)⌉-th smallest of n values, at most the largest: a length that was seen.

    A fresh value from where these come from has each of n + 1 places with the same chance, so it is strictly more in at most 1%.
    """
    known = np.sort(values.dropna().to_numpy(float))
    return float(known[min(len(known), math.ceil(LEVEL * (len(known) + 1))) - 1])


def _beyond(best: pd.DataFrame, quantiles: Mapping[str, float], tau: float, whole: Whole) -> pd.DataFrame:
    lengths = best.reindex(columns=list(quantiles))
    return (lengths > pd.Series(quantiles, dtype=float) + tau) & (lengths >= FEWEST_TOKENS) | _is_whole(lengths, whole)


def _is_whole(lengths: pd.DataFrame, whole: Whole) -> pd.DataFrame:
    """Where a whole answer came back; nowhere without answers, and then lengths need not say of which memories they are."""
    if not whole:
        return pd.DataFrame(False, lengths.index, lengths.columns)
    tokens = lengths.index.get_level_values("memory").map(lambda m: whole.get(m, math.inf)).to_numpy(float)
    return lengths.ge(tokens, axis=0)


def _measured_false_positives(null: pd.DataFrame, whole: Whole) -> float:
    """Calibrate on every second memory and judge the rest, then the other way round; the mean share called recovered."""
    names = null.index.get_level_values("memory")
    # By memory, so that one passage on two models is never on both sides; by sorted name, so that domains are halved too.
    odd = names.isin(sorted(set(names))[1::2])
    if odd.all() or not odd.any():
        return math.nan
    calls = []
    for judged in (odd, ~odd):
        other = null[~judged].dropna(axis=1, how="all")
        quantiles = {str(attack): _percentile(other[attack]) for attack in other}
        calls.append(_beyond(null[judged], quantiles, _tau(other, quantiles), whole).any(axis=1))
    return float(pd.concat(calls).mean())
