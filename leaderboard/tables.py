"""The tables of a suite as plain data: one row per method, numbers with their intervals."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd

from ..benchmark.common.errors import UserError, unknown
from ..benchmark.common.types import HELD, Results
from ..benchmark.scoring.calibration import Calibration
from ..benchmark.scoring.score import Score
from .attacks import Recovery, recovery
from .costs import CostCell, cost_cells
from .damage import TaskCell, Utility, damages, main_task, utility, yardstick_words
from .dead_weight import DeadWeight, dead_weight
from .flags import COLLAPSED, Evidence, FlagCell, flags_of, high_nulls
from .ranking import Place, Ranking, rank
from .reversal import tampering
from .statistics import Estimate
from .units import ANSWERS, TOKENS, Unit
from .values import Further, ValueScore

Standing = Literal["", "best", "tied"]
BASE = "base"  # the model before injection: quality only
RETRAIN = "retrain"
REFERENCES = (HELD, RETRAIN)  # the ceiling and the gold standard: never "best"


@dataclass(frozen=True)
class MethodRow:
    """Everything the tables say about one method."""

    method: str
    recovery: Recovery
    utility: Utility
    further: Further
    costs: tuple[CostCell, ...] = ()
    flags: tuple[FlagCell, ...] = ()
    doc: str = ""
    standing: Standing = ""
    place: Place | None = None  # among the rows within budget; None for all others
    over: tuple[str, ...] = ()  # what exceeds its budget, or was not measured; of rows that would be ranked otherwise

    @property
    def seconds(self) -> float:
        return next((c.mean for c in self.costs if c.quantity == "seconds"), np.nan)

    @property
    def collapsed(self) -> bool:
        return self.utility.damage.value > COLLAPSED

    @property
    def reference(self) -> bool:
        return self.method in REFERENCES

    @property
    def aside(self) -> bool:
        """Whether it is no contender: a reference, collapsed, or over budget."""
        return self.reference or self.collapsed or bool(self.over)


NOT_INJECTED = "none:"  # how the fact `injection` begins where the held model was trained elsewhere


@dataclass(frozen=True)
class Notes:
    """What captions say about all rows together."""

    memories: int  # forget memories, all seeds together
    survivors: tuple[str, ...] = ()  # access levels at which some memories were asked only because nothing cheaper had recovered them
    unit: Unit = TOKENS  # of lengths
    high_nulls: dict[str, float] = field(default_factory=dict)  # attacks that read far by chance -> q_a in tokens
    damage_of: str = ""  # what damage is a loss of, in words
    learnt: bool = True  # whether the held model repeats enough for forgetting to mean something; else nobody is best
    injected: bool = True  # or whether the held model was trained elsewhere


@dataclass(frozen=True)
class MainTable:
    """The rows in the suite's order, and what is needed to read them."""

    suite: str
    seeds: tuple[int, ...]
    access: str  # the level that the main columns are about
    calibrations: dict[str, Calibration]
    rows: list[MethodRow]
    twin: MethodRow  # the yardstick, for captions; not a row of the table. Without a name and numbers where there is none
    base: tuple[TaskCell, ...]  # the base model's tasks, before injection
    notes: Notes
    ranking: Ranking
    dead_weight: DeadWeight

    @property
    def calibrated(self) -> bool:
        """Whether the table has a leak: the null of its level is large enough for thresholds."""
        return self.calibrations[self.access].possible

    @property
    def unit(self) -> Unit:
        """What lengths are counted in."""
        return self.notes.unit

    def ranked(self, row: MethodRow) -> Estimate:
        """The value that decides about ranks: the excess over the twin (a length); less is better."""
        return row.recovery.leaks[0].excess


def main_table(results: Results, access: str | None = None) -> MainTable:
    """Score every method of the suite; `access` is the level of the main columns, by default the weakest attacker's."""
    maker = _Rows(results)
    score = maker.score
    if not score.levels:
        raise UserError(f"The results of suite {results.suite!r} hold no records; run the suite first.")
    access = access or score.levels[0]
    if access not in score.levels:
        raise unknown("access level", access, score.levels)
    known = set(score.best.index.get_level_values("method"))
    asked = [method for method in results.methods if method in known]
    rows = [maker.row(method, access) for method in asked]
    twin = maker.row(results.twin, access)
    table = MainTable(
        suite=results.suite,
        seeds=results.seeds,
        access=access,
        calibrations=score.calibrations,
        rows=rows,
        twin=twin,
        base=damages(results.quality, BASE, results.undamaged),
        notes=maker.notes(twin if results.twin else rows[0], access),
        ranking=Ranking(results.budget),
        dead_weight=dead_weight(score, asked, [r.method for r in rows if not (r.reference or r.collapsed)], access),
    )
    return _ranked(table, score) if table.notes.learnt else table


class _Rows:
    """Makes the rows of one suite; what they share is computed once."""

    def __init__(self, results: Results):
        self.results = results
        self.score = Score(results.records, results.twin, results.diagnostics)
        self.values = ValueScore(results.values, results.twin, results.kinds)
        self.tampering = tampering(self.score)
        self.tasks = {m: damages(results.quality, m, results.undamaged) for m in (*results.methods, results.twin)}
        self.main = {m: main_task(tasks, results.yardstick) for m, tasks in self.tasks.items()}
        self.evidence = Evidence(self.score, self.values, {m: t.by_seed for m, t in self.main.items() if t})
        self.yardstick = RETRAIN if any(c.method == RETRAIN for c in results.costs) else results.twin  # of costs
        self.openings: dict[str, pd.Series] = {}

    def row(self, method: str, access: str) -> MethodRow:
        score, results = self.score, self.results
        self.openings |= {m: score.opening(m) for m in (method, results.twin) if m not in self.openings}
        return MethodRow(
            method=method,
            recovery=recovery(score, method, access, self.tampering),
            utility=utility(score, method, self.tasks[method], self.main[method]),
            further=self.values.further(method, self.openings),
            costs=cost_cells(results.costs, method, self.yardstick),
            flags=flags_of(self.evidence, method),
            doc=results.docs.get(method, ""),
        )

    def notes(self, twin: MethodRow, access: str) -> Notes:
        """What is said about all rows; `twin` is the twin's row (or another, without one), `access` the level of the main columns."""
        forgotten = [r for r in self.results.records if r.role == "forget" and r.method != self.results.twin]
        further = {r.attack for r in forgotten if r.extra}
        task = main_task(twin.utility.tasks, self.results.yardstick)
        return Notes(
            memories=twin.recovery.exact.count,
            survivors=tuple(level for level in self.score.levels if further & set(self.score.up_to(level))),
            unit=ANSWERS if self.score.whole else TOKENS,
            high_nulls=high_nulls(self.score),
            damage_of=yardstick_words(task, self.results.yardstick),
            learnt=self.score.learnt,
            injected=not self.results.facts.get("injection", "").startswith(NOT_INJECTED),
        )


def _ranked(table: MainTable, score: Score) -> MainTable:
    """Give places to the rows within budget. The best is the first of these; tied are those than which nobody is surely better."""
    rivals = {r.method: r for r in table.rows if not (r.reference or r.collapsed) and table.ranked(r)}
    lengths = {m: score.lengths(m)[score.up_to(table.access)] for m in rivals}
    twin = score.worst(score.twin, table.access) if score.twin else pd.Series(dtype=float)
    costs = {m: (r.utility.damage.value, r.utility.collateral.value) for m, r in rivals.items()}
    found = rank(lengths, twin, costs, table.ranking.budget)
    best = min(found.places, key=lambda m: (found.places[m].first, max(table.ranked(rivals[m]).value, 0)), default=None)

    def placed(row: MethodRow) -> MethodRow:
        place = found.places.get(row.method)
        over = ("collapsed",) if row.collapsed and not row.reference else found.over.get(row.method, ())
        standing: Standing = "best" if row.method == best else "tied" if place and place.first == 1 else ""
        return replace(row, standing=standing, place=place, over=over)

    return replace(table, rows=[placed(row) for row in table.rows], ranking=found)
