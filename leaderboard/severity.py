"""How much of a text comes back, beyond whether it does: shares by length, each minus the twin's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from ..benchmark.common.types import HORIZON
from ..benchmark.scoring.score import Score
from .statistics import Estimate, by_seed, difference, rate

AT_LEAST = (16, 32, HORIZON)  # tokens


@dataclass(frozen=True)
class Severity:
    """Of how many forget memories at least so many tokens come back under the best attack, minus the twin's share."""

    shares: tuple[Estimate, ...]  # at the lengths of AT_LEAST
    own: tuple[Estimate, ...]  # the same without taking off the twin's
    curve: np.ndarray  # [64] shares, of at least 1, 2, … 64 tokens; their sum is the excess in tokens. NaN where nothing was asked of both


def severity(score: Score, method: str, access: str) -> Severity:
    """Over the attacks up to an access level that were asked of the method and the twin about the same memory."""
    pair = score.worst_pair(method, access)
    mine, twin = by_seed(pair["mine"]), by_seed(pair["twin"])
    own = tuple(rate([a >= n for a in mine]) for n in AT_LEAST)
    return Severity(beyond(mine, twin), own, curve_beyond(mine, twin))


def beyond(mine: Sequence[np.ndarray], twin: Sequence[np.ndarray]) -> tuple[Estimate, ...]:
    """Shares at the lengths of AT_LEAST minus the twin's, from longest matches (tokens) of the same memories, an array per seed of each."""
    return tuple(difference([a >= n for a in mine], [b >= n for b in twin]) for n in AT_LEAST)


def curve_beyond(mine: Sequence[np.ndarray], twin: Sequence[np.ndarray]) -> np.ndarray:
    """The same at 1, 2, … 64 tokens: the mean over seeds of [64] differences of shares; NaN without a seed."""
    curves = [_survival(a) - _survival(b) for a, b in zip(mine, twin, strict=True)]
    return np.mean(curves, axis=0) if curves else np.full(HORIZON, np.nan)


def _survival(lengths: np.ndarray) -> np.ndarray:
    return (lengths[:, None] >= np.arange(1, HORIZON + 1)).mean(axis=0)


def in_words(percents: Sequence[str], unit: str = "tokens") -> str:
    """What a sparkline says to those who cannot see it; `percents` at the lengths of AT_LEAST, in the unit's words."""
    return "; ".join(f"{x}% of at least {n} {unit}" for x, n in zip(percents, AT_LEAST, strict=True))


def sparkline(curve: Sequence[float] | np.ndarray, label: str) -> str:
    """The curve as a small <svg> element in the ink of the page: 1 to 64 tokens across, 0 to 100% up, marks at 16 and 32; empty for NaN.

    Shares below the twin's are drawn as 0.
    """
    if not np.isfinite(curve).all():
        return ""
    heights = [f"{20 - 18 * max(0.0, float(x)):.1f}".removesuffix(".0") for x in curve]
    steps = "".join(f"V{y}H{n}" for n, y in enumerate(heights, start=1))
    marks = "".join(f"M{n} 2V20" for n in AT_LEAST[:-1])
    return (
        f'<svg class="spark" viewBox="0 0 64 21" role="img" aria-label="{escape(label)}">'
        f'<path d="{marks}M0 20H64" fill="none" stroke="var(--rule)"/>'
        f'<path d="M0 20{steps}V20Z" fill="currentColor" fill-opacity=".25" stroke="currentColor" stroke-width=".8"/></svg>'
    )
