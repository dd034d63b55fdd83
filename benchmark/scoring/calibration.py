"""What counts as recovered: thresholds from the matched lengths of attacks where nothing was held.

Tables have one row per unit (a memory on a model) and one column per attack. docs/metrics.md, "Score", gives the reasons.
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
FEWEST_TOKENS = 8  # a shorter match is never a recovery


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


def calibrate(null: pd.DataFrame) -> Calibration:
    """Thresholds from the null of some attacks (its columns); attacks with fewer than 288 values are left out by name."""
    enough = [str(attack) for attack in null if null[attack].count() >= FEWEST_NULL]
    left_out = tuple(str(attack) for attack in null if attack not in enough)
    size = int(null.notna().any(axis=1).sum())
    if not enough:
        return Calibration({}, math.nan, size, math.nan, left_out)
    quantiles = {attack: _percentile(null[attack]) for attack in enough}
    judged = _asked_most(null[enough])
    return Calibration(quantiles, _tau(judged, quantiles), size, _measured_false_positives(judged), left_out)


def recovered(best: pd.DataFrame, calibration: Calibration) -> pd.Series:
    """True where some calibrated attack matched strictly more than q_a + tau tokens, and at least 8; NaN is no match."""
    return _recovered(best, calibration.quantiles, calibration.tau)


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


def _recovered(best: pd.DataFrame, quantiles: Mapping[str, float], tau: float) -> pd.Series:
    lengths = best.reindex(columns=list(quantiles))
    return ((lengths > pd.Series(quantiles, dtype=float) + tau) & (lengths >= FEWEST_TOKENS)).any(axis=1)


def _measured_false_positives(null: pd.DataFrame) -> float:
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
        calls.append(_recovered(null[judged], quantiles, _tau(other, quantiles)))
    return float(pd.concat(calls).mean())
