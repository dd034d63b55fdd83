"""Matched-length curves: which share of memories comes back at least so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..benchmark.common.types import HORIZON, Record, Results
from ..benchmark.scoring.score import Score, whole_answers

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
    """For attacks whose variants are windows of the memory, each of a length of its own: attack -> variant -> shares, as above.

    Variants stand in the order of their lengths.
    """
    found: dict[str, dict[str, list[Record]]] = {}
    for r in results.records:
        if r.method == method and r.role == "forget":
            found.setdefault(r.attack, {}).setdefault(r.variant, []).append(r)
    lengths, whole = {attack: _prompt_lengths(variants) for attack, variants in found.items()}, whole_answers(results.records)
    return {
        attack: {
            name: survival([r.matched * HORIZON / whole.get(r.memory, HORIZON) for r in found[attack][name]])
            for name in sorted(by_variant, key=by_variant.__getitem__)
        }
        for attack, by_variant in lengths.items()
        if len(by_variant) > 1
    }


def _prompt_lengths(variants: Mapping[str, Sequence[Record]]) -> dict[str, int]:
    """Tokens of the prompts of each variant; nothing unless all are windows, and each variant is of one length, another than the others."""
    lengths = {name: {_prompt_length(r) for r in records} for name, records in variants.items()}
    each = {name: min(found) for name, found in lengths.items() if len(found) == 1}
    return each if len(variants) == len(each) == len(set(each.values())) and min(each.values()) > 0 else {}


def _prompt_length(r: Record) -> int:
    """Tokens of a window of the memory, from which the record reads on; 0 for prompts that are none."""
    return r.offset - r.start if r.asks == "window" and r.start >= 0 else 0
