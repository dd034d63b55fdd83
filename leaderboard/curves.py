"""Matched-length curves: which share of memories comes back at least so far."""

# pyright: reportArgumentType=false

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..benchmark.common.types import HORIZON, Record, Results
from ..benchmark.scoring.score import Score

MANY = 7  # attacks beyond which a panel shows one curve per access level instead


def survival(lengths: Sequence[float] | pd.Series | np.ndarray) -> np.ndarray:
    """Share of values >= x for x in 0..64: 65 shares, falling from 1."""
    values = np.asarray(lengths, float)
    values = values[np.isfinite(values)]
    return (values[:, None] >= np.arange(HORIZON + 1)).mean(axis=0) if len(values) else np.full(HORIZON + 1, np.nan)


def attack_curves(results: Results, method: str) -> dict[str, np.ndarray]:
    """Share of forget memories with at least x tokens matched: after the exact opening, and by each attack at its best.

    Where a suite has many attacks: by the worst case of each access level.
    """
    score = Score([r for r in results.records if r.method == method], results.twin, results.diagnostics)
    opening = score.opening(method).dropna()
    curves = {"exact opening": survival(opening)} if len(opening) else {}
    if len({r.attack for r in results.records}) > MANY:
        return curves | {f"{level} attacks": survival(score.worst(method, level)) for level in score.levels}
    return curves | {a: survival(score.rated(method)[a]) for a in score.attacks}


def prompt_length_curves(results: Results, method: str) -> dict[str, dict[str, np.ndarray]]:
    """For attacks whose variants are all prompt lengths ("k8", "k16", …): attack -> variant -> shares, as above."""
    found: dict[str, dict[str, list[Record]]] = {}
    for r in results.records:
        if r.method == method and r.role == "forget":
            found.setdefault(r.attack, {}).setdefault(r.variant, []).append(r)
    by_k = {a: v for a, v in found.items() if len(v) > 1 and all(re.fullmatch(r"k\d+", name) for name in v)}
    return {
        attack: {k: survival([r.matched for r in variants[k]]) for k in sorted(variants, key=lambda k: int(k[1:]))}
        for attack, variants in by_k.items()
    }
