"""What single attacks and whole access levels get back of one method, against the twin."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from ..benchmark.common.types import HORIZON
from ..benchmark.scoring.score import Score
from .statistics import Estimate, by_seed, difference, holm, mcnemar, mean, paired_permutation, rate


@dataclass(frozen=True)
class AttackCell:
    """One attack on one method, over the forget memories that every model is asked about."""

    attack: str
    access: str
    matched: Estimate  # tokens, best over the attack's variants
    gain: Estimate  # tokens over the exact opening, minus the twin's own gain
    p: float  # paired permutation test of the matched length against the twin's, Holm over attacks; NaN for diagnostics
    recovered: Estimate  # share recovered at the thresholds of the attack's own access level; not measured without them
    recovered_p: float  # exact McNemar of that against the twin, Holm over attacks
    diagnostic: bool = False


@dataclass(frozen=True)
class LeakCell:
    """What an attacker of one access level gets back, against the twin."""

    access: str
    leak: Estimate  # share; not measured where the null is too small
    excess: Estimate  # tokens: worst-case matched length minus the twin's, over questions asked of both
    p: float  # exact McNemar against the twin: recovered memories, or all 64 tokens where the null is too small


def attack_cells(score: Score, method: str) -> tuple[AttackCell, ...]:
    """One cell for each attack that this method was asked with."""
    mine, twin = score.rated(method), score.rated(score.twin)
    gains = mine.sub(score.opening(method), axis=0), twin.sub(score.opening(score.twin), axis=0)
    names = [a for a in score.attacks if mine[a].notna().any()]
    counted = [a for a in names if a not in score.diagnostics]
    lengths = _adjusted({a: paired_permutation((mine[a] - twin[a]).dropna()) for a in counted})
    alone, by_twin = score.recovered_alone(method), score.recovered_alone(score.twin)
    pairs = {a: pd.DataFrame({"mine": alone[a], "twin": by_twin[a]}).dropna() for a in counted if a in alone}
    calls = _adjusted({a: mcnemar(pair["mine"], pair["twin"]) for a, pair in pairs.items()})
    return tuple(
        AttackCell(
            a,
            score.attacks[a],
            mean(by_seed(mine[a])).within(0, HORIZON),
            mean(by_seed(gains[0][a] - gains[1][a])),
            lengths.get(a, math.nan),
            rate(by_seed(alone[a]) if a in alone else []),
            calls.get(a, math.nan),
            a in score.diagnostics,
        )
        for a in names
    )


def leak_cell(score: Score, method: str, access: str) -> LeakCell:
    """Leak and excess of all attacks up to an access level."""
    lengths = score.worst_pair(method, access)
    if score.calibrations[access].possible:
        pair = score.recovered_pair(method, access)
        leak = difference(by_seed(pair["mine"]), by_seed(pair["twin"]))
        p = mcnemar(pair["mine"], pair["twin"])
    else:
        leak = mean([])
        p = mcnemar(lengths["mine"] >= HORIZON, lengths["twin"] >= HORIZON)
    return LeakCell(access, leak, mean(by_seed(lengths["mine"] - lengths["twin"])), p)


def _adjusted(p_values: dict[str, float]) -> dict[str, float]:
    known = {name: p for name, p in p_values.items() if not math.isnan(p)}
    return dict(zip(known, holm(list(known.values())), strict=True))
