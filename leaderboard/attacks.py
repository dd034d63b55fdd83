"""What comes back of one method: by single attacks and at whole access levels, against the twin."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from ..benchmark.common.types import HORIZON
from ..benchmark.scoring.score import Score
from .reversal import ReversalCell, reversals
from .severity import Severity, severity
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


@dataclass(frozen=True)
class Recovery:
    """What comes back of the forget memories."""

    exact: Estimate  # share of which the exact opening brings back all 64 tokens
    opening: Estimate  # tokens matched after the exact opening
    worst: Estimate  # share of which some attack up to the main access level brings back all 64 tokens
    worst_length: Estimate  # tokens, the longest match over those attacks
    verbatim: Estimate  # tokens, the longest match over the windows of true tokens that were asked
    attacks: tuple[AttackCell, ...]
    leaks: tuple[LeakCell, ...]  # by access level, the main one first
    severity: Severity  # at the main level
    reversals: tuple[ReversalCell, ...] = ()


def recovery(score: Score, method: str, access: str, changing: tuple[str, ...]) -> Recovery:
    """All of it for one method; `access` is the main level, `changing` names the attacks that change the model."""
    worst = score.worst(method, access)
    return Recovery(
        exact=rate(by_seed(score.exact(method))),
        opening=_tokens(score.opening(method)),
        worst=rate(by_seed(worst.dropna() >= HORIZON)),
        worst_length=_tokens(worst),
        verbatim=_tokens(score.verbatim(method)),
        attacks=attack_cells(score, method),
        leaks=tuple(leak_cell(score, method, level) for level in (access, *(a for a in score.levels if a != access))),
        severity=severity(score, method, access),
        reversals=reversals(score, method, changing),
    )


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
            attack=a,
            access=score.attacks[a],
            matched=_tokens(mine[a]),
            gain=mean(by_seed(gains[0][a] - gains[1][a])),
            p=lengths.get(a, math.nan),
            recovered=rate(by_seed(alone[a]) if a in alone else []),
            recovered_p=calls.get(a, math.nan),
            diagnostic=a in score.diagnostics,
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


def _tokens(lengths: pd.Series) -> Estimate:
    return mean(by_seed(lengths)).within(0, HORIZON)


def _adjusted(p_values: dict[str, float]) -> dict[str, float]:
    known = {name: p for name, p in p_values.items() if not math.isnan(p)}
    return dict(zip(known, holm(list(known.values())), strict=True))
