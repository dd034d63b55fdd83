"""The tables of a suite as plain data: one row per method, numbers with their intervals."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd

from ..benchmark.common.errors import UserError, unknown
from ..benchmark.common.types import HELD, HORIZON, Results
from ..benchmark.scoring.calibration import Calibration
from ..benchmark.scoring.score import Score
from .attacks import AttackCell, LeakCell, attack_cells, leak_cell
from .costs import CostCell, cost_cells
from .damage import TaskCell, damages, main_task, yardstick_words
from .flags import COLLAPSED, Evidence, FlagCell, flags_of, high_nulls
from .reversal import ReversalCell, reversals, tampering
from .statistics import Estimate, by_seed, mean, rate
from .values import ExtractionCell, MembershipCell, NumberCell, QualityCell, TrajectoryCell, ValueScore

Standing = Literal["", "best", "tied"]
BASE = "base"  # the model before injection: quality only
RETRAIN = "retrain"
REFERENCES = (HELD, RETRAIN)  # the ceiling and the gold standard: never "best"


@dataclass(frozen=True)
class MethodRow:
    """Everything the tables say about one method."""

    method: str
    exact: Estimate  # share of forget memories of which the exact opening brings back all 64 tokens
    opening: Estimate  # tokens matched after the exact opening
    worst: Estimate  # share of which some attack up to the main access level brings back all 64 tokens
    worst_length: Estimate  # tokens, the longest match over those attacks
    verbatim: Estimate  # tokens, the longest match over windows of true tokens from every start
    attacks: tuple[AttackCell, ...]
    leaks: tuple[LeakCell, ...]  # by access level, the main one first
    damage: Estimate  # % of the twin's quality, by the suite's yardstick
    tasks: tuple[TaskCell, ...]
    collateral: Estimate  # points
    kept: Estimate  # share of the keep memories, shown and hidden, that come back whole: a sign of life
    costs: tuple[CostCell, ...]
    doc: str = ""
    standing: Standing = ""
    membership: tuple[MembershipCell, ...] = ()
    forget_quality: QualityCell = field(default_factory=QualityCell)
    extraction: tuple[ExtractionCell, ...] = ()
    numbers: tuple[NumberCell, ...] = ()
    trajectories: tuple[TrajectoryCell, ...] = ()
    reversals: tuple[ReversalCell, ...] = ()
    flags: tuple[FlagCell, ...] = ()

    @property
    def seconds(self) -> float:
        return next((c.mean for c in self.costs if c.quantity == "seconds"), np.nan)

    @property
    def collapsed(self) -> bool:
        return self.damage.value > COLLAPSED

    @property
    def reference(self) -> bool:
        return self.method in REFERENCES

    @property
    def competes(self) -> bool:
        """Whether it may be called best: only with a damage that is a number, and not above the line."""
        return not self.reference and bool(self.damage) and not self.collapsed


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
    survivors: bool = False  # some memories were asked only because nothing cheaper had recovered them
    high_nulls: dict[str, float] = field(default_factory=dict)  # attacks that read far by chance -> q_a in tokens
    damage_of: str = ""  # what damage is a loss of, in words
    learnt: bool = True  # whether the held model repeats enough for forgetting to mean something; else nobody is best

    @property
    def calibrated(self) -> bool:
        """Whether the table ranks by leak; otherwise by raw excess over the twin."""
        return self.calibrations[self.access].possible

    def ranked(self, row: MethodRow) -> Estimate:
        """The value that decides who is best: leak (share) or raw excess (tokens); less is better."""
        return row.leaks[0].leak if self.calibrated else row.leaks[0].excess


def main_table(results: Results, access: str | None = None) -> MainTable:
    """Score every method of the suite; `access` is the level of the main columns, by default the weakest attacker's."""
    maker = _Rows(results)
    score = maker.score
    if not score.levels:
        raise UserError(f"The results of suite {results.suite!r} hold no records; run the suite first.")
    access = access or score.levels[0]
    if access not in score.levels:
        raise unknown("access level", access, score.levels)
    counted = set(score.up_to(access))
    forgotten = [r for r in results.records if r.role == "forget" and r.method != results.twin]
    asked = set(score.best.index.get_level_values("method"))
    rows = [maker.row(method, access) for method in results.methods if method in asked]
    twin = maker.row(results.twin, access)
    table = MainTable(
        results.suite,
        results.seeds,
        access,
        score.calibrations,
        rows,
        twin,
        twin.exact.count,
        damages(results.quality, BASE, results.twin),
        any(r.extra and r.attack in counted for r in forgotten),
        high_nulls(score),
        yardstick_words(main_task(twin.tasks, results.yardstick), results.yardstick),
        score.learnt,
    )
    return replace(table, rows=_with_standing(table)) if table.learnt else table


class _Rows:
    """Makes the rows of one suite; what they share is computed once."""

    def __init__(self, results: Results):
        self.results = results
        self.score = Score(results.records, results.twin, results.diagnostics)
        self.values = ValueScore(results.values, results.twin)
        self.tampering = tampering(self.score)
        self.tasks = {m: damages(results.quality, m, results.twin) for m in (*results.methods, results.twin)}
        self.main = {m: main_task(tasks, results.yardstick) for m, tasks in self.tasks.items()}
        self.evidence = Evidence(self.score, self.values, {m: t.by_seed for m, t in self.main.items() if t})
        self.yardstick = RETRAIN if any(c.method == RETRAIN for c in results.costs) else results.twin  # of costs
        self.openings: dict[str, pd.Series] = {}

    def row(self, method: str, access: str) -> MethodRow:
        score, values, results = self.score, self.values, self.results
        worst = score.worst(method, access)
        self.openings |= {m: score.opening(m) for m in (method, results.twin) if m not in self.openings}
        return MethodRow(
            method=method,
            exact=rate(by_seed(score.exact(method))),
            opening=_tokens(score.opening(method)),
            worst=rate(by_seed(worst.dropna() >= HORIZON)),
            worst_length=_tokens(worst),
            verbatim=_tokens(score.verbatim(method)),
            attacks=attack_cells(score, method),
            leaks=tuple(leak_cell(score, method, level) for level in (access, *(a for a in score.levels if a != access))),
            damage=task.damage if (task := self.main[method]) else mean([]),
            tasks=self.tasks[method],
            collateral=rate(by_seed(score.lost(method))).scaled(100),
            kept=rate(by_seed(score.kept(method))),
            costs=cost_cells(results.costs, method, self.yardstick),
            doc=results.docs.get(method, ""),
            membership=values.membership(method),
            forget_quality=values.forget_quality(method),
            extraction=values.extraction(method),
            numbers=values.numbers(method),
            trajectories=values.trajectories(method, self.openings),
            reversals=reversals(score, method, self.tampering),
            flags=flags_of(self.evidence, method),
        )


def _with_standing(table: MainTable) -> list[MethodRow]:
    """Mark the best method and those whose interval overlaps with its own, among the rows that compete."""
    rivals = [r for r in table.rows if r.competes and table.ranked(r)]
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
