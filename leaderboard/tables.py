"""The tables of a suite as plain data: one row per method, numbers with their intervals, and the matched-length curves."""

# pandas annotates most results as "frame or series or scalar", which no narrowing can follow.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from ..benchmark.errors import UserError, unknown
from ..benchmark.scoring import EXACT, HELD, Calibration, Score
from ..benchmark.types import HORIZON, Record, Results
from .damage import TaskCell, damages, main_damage
from .statistics import Estimate, difference, holm, mcnemar, mean, paired_permutation, rate

Standing = Literal["", "best", "tied"]
BASE = "base"  # the model before injection: quality only
REFERENCES = (HELD, "retrain")  # the ceiling and the gold standard: never "best"
COLLAPSED = 20.0  # % bits per byte


@dataclass(frozen=True)
class AttackCell:
    """One attack on one method, over the forget memories."""

    attack: str
    access: str
    matched: Estimate  # tokens, best over the attack's variants
    gain: Estimate  # tokens over the exact opening, minus the twin's own gain
    p: float  # paired permutation test of the matched length against the twin's, Holm over attacks


@dataclass(frozen=True)
class LeakCell:
    """What an attacker of one access level gets back, against the twin."""

    access: str
    leak: Estimate  # share; not measured where the null is too small
    excess: Estimate  # tokens: worst-case matched length minus the twin's
    p: float  # exact McNemar against the twin: recovered memories, or all 64 tokens where the null is too small


@dataclass(frozen=True)
class MethodRow:
    """Everything the tables say about one method."""

    method: str
    exact: Estimate  # share of forget memories of which the exact opening brings back all 64 tokens
    opening: Estimate  # tokens matched after the exact opening
    worst: Estimate  # share of which some attack of the main access level brings back all 64 tokens
    worst_length: Estimate  # tokens, the longest match over those attacks
    verbatim: Estimate  # tokens, the longest match over windows of true tokens from every start
    attacks: tuple[AttackCell, ...]
    leaks: tuple[LeakCell, ...]  # by access level, the main one first
    damage: Estimate  # % bits per byte
    tasks: tuple[TaskCell, ...]
    collateral: Estimate  # points
    seconds: float
    doc: str = ""
    standing: Standing = ""

    @property
    def collapsed(self) -> bool:
        return self.damage.value > COLLAPSED

    @property
    def reference(self) -> bool:
        return self.method in REFERENCES


@dataclass(frozen=True)
class MainTable:
    """The rows in the suite's order, and what is needed to read them."""

    suite: str
    seeds: tuple[int, ...]
    access: str  # the level that the main columns are about
    calibrations: dict[str, Calibration]
    rows: list[MethodRow]
    twin: MethodRow  # the yardstick, for captions; not a row of the table
    memories: int  # forget memories, all seeds together
    base: tuple[TaskCell, ...] = ()  # the base model's tasks, before injection

    @property
    def calibrated(self) -> bool:
        """Whether the table ranks by leak; otherwise by raw excess over the twin."""
        return self.calibrations[self.access].possible

    def ranked(self, row: MethodRow) -> Estimate:
        """The value that decides who is best: leak (share) or raw excess (tokens); less is better."""
        return row.leaks[0].leak if self.calibrated else row.leaks[0].excess


def main_table(results: Results, access: str | None = None) -> MainTable:
    """Score every method of the suite; `access` is the level of the main columns, by default the weakest attacker's."""
    score = Score(results.records, results.twin)
    if not score.levels:
        raise UserError(f"The results of suite {results.suite!r} hold no records; run the suite first.")
    access = access or score.levels[0]
    if access not in score.levels:
        raise unknown("access level", access, score.levels)
    asked = set(score.best.index.get_level_values("method"))
    rows = [_row(results, score, method, access) for method in results.methods if method in asked]
    twin = _row(results, score, results.twin, access)
    base = damages(results.quality, BASE, results.twin)
    table = MainTable(results.suite, results.seeds, access, score.calibrations, rows, twin, twin.exact.count, base)
    return replace(table, rows=_with_standing(table))


def by_seed(values: pd.Series) -> list[np.ndarray]:
    """One array of values per seed, without what was not measured."""
    return [g.to_numpy() for _, g in values.dropna().astype(float).groupby("seed")]


def _row(results: Results, score: Score, method: str, access: str) -> MethodRow:
    levels = (access, *(a for a in score.levels if a != access))
    worst = score.worst(method, access)
    tasks = damages(results.quality, method, results.twin)
    return MethodRow(
        method=method,
        exact=rate(by_seed(score.exact(method))),
        opening=_tokens(score.opening(method)),
        worst=rate(by_seed(worst >= HORIZON)),
        worst_length=_tokens(worst),
        verbatim=_tokens(score.verbatim(method)),
        attacks=_attack_cells(score, method),
        leaks=tuple(_leak_cell(score, method, level) for level in levels),
        damage=main_damage(tasks),
        tasks=tasks,
        collateral=rate(by_seed(score.lost(method))).scaled(100),
        seconds=float(np.mean([c.seconds for c in results.costs if c.method == method] or [np.nan])),
        doc=results.docs.get(method, ""),
    )


def _attack_cells(score: Score, method: str) -> tuple[AttackCell, ...]:
    mine, twin = score.lengths(method), score.lengths(score.twin)
    gains = mine.sub(score.opening(method), axis=0), twin.sub(score.opening(score.twin), axis=0)
    names = [a for a in score.attacks if mine[a].notna().any()]
    against = [paired_permutation((mine[a] - twin[a]).dropna()) for a in names]
    return tuple(
        AttackCell(a, score.attacks[a], _tokens(mine[a]), mean(by_seed(gains[0][a] - gains[1][a])), p)
        for a, p in zip(names, holm(against), strict=True)
    )


def _leak_cell(score: Score, method: str, access: str) -> LeakCell:
    mine, twin = score.worst(method, access), score.worst(score.twin, access)
    over = (mine - twin).dropna()
    if score.calibrations[access].possible:
        pair = score.recovered_pair(method, access)
        leak = difference(by_seed(pair["mine"]), by_seed(pair["twin"]))
        p = mcnemar(pair["mine"], pair["twin"])
    else:
        leak = mean([])
        p = mcnemar(mine[over.index] >= HORIZON, twin[over.index] >= HORIZON)
    return LeakCell(access, leak, mean(by_seed(over)), p)


def _with_standing(table: MainTable) -> list[MethodRow]:
    """Mark the best method and those whose interval overlaps with its own; collapsed and reference rows do not compete."""
    rivals = [r for r in table.rows if not r.collapsed and not r.reference and table.ranked(r)]
    if not rivals:
        return table.rows
    best = min(rivals, key=lambda r: table.ranked(r).value)

    def standing(row: MethodRow) -> Standing:
        if row is best:
            return "best"
        # A NaN interval (one memory) overlaps with nothing by comparison, yet nothing tells the two apart.
        apart = table.ranked(row).low > table.ranked(best).high
        return "tied" if row in rivals and not apart else ""

    return [replace(row, standing=standing(row)) for row in table.rows]


def _tokens(lengths: pd.Series) -> Estimate:
    return mean(by_seed(lengths)).within(0, HORIZON)


def survival(lengths: Sequence[float] | pd.Series | np.ndarray) -> np.ndarray:
    """Share of values >= x for x in 0..64: 65 shares, falling from 1."""
    values = np.asarray(lengths, float)
    values = values[np.isfinite(values)]
    return (values[:, None] >= np.arange(HORIZON + 1)).mean(axis=0) if len(values) else np.full(HORIZON + 1, np.nan)


def attack_curves(results: Results, method: str) -> dict[str, np.ndarray]:
    """Share of forget memories with at least x tokens matched: after the exact opening, and by each attack at its best."""
    score = Score([r for r in results.records if r.method == method], results.twin)
    curves = {"exact opening": survival(score.opening(method))} if EXACT[0] in score.attacks else {}
    return curves | {a: survival(score.lengths(method)[a]) for a in score.attacks}


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
