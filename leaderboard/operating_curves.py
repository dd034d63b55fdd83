"""Operating curves: what a method forgets at each strength and what that costs, its frontier, and the value within budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from ..benchmark.common.types import OperatingPoint, Results
from .cells import MISSING, Cell, Grid, GridRow, cell, known_columns
from .flags import COLLAPSED
from .statistics import Estimate
from .tables import MainTable, MethodRow

Cost = Literal["collateral", "damage"]
BUDGETS: dict[Cost, tuple[float, ...]] = {"collateral": (10.0, 25.0, 50.0), "damage": (2.0, 5.0, 10.0)}
UNITS: dict[Cost, str] = {"collateral": " points", "damage": "%"}
COLUMNS: list[tuple[Cost, float]] = [(kind, budget) for kind, budgets in BUDGETS.items() for budget in budgets]
NOT_REACHED = "not reached"
EXCESS = "excess_tokens"  # column


@dataclass(frozen=True)
class Setting:
    """A method at one strength."""

    point: OperatingPoint
    matched: Estimate  # tokens, the longest match of the battery on each forget memory
    back: Estimate  # what comes back, in tokens: the excess over the twin, by which tables rank; of entries the matched length
    collateral: Estimate  # points
    damage: Estimate  # % of the twin's quality

    def cost(self, kind: Cost) -> Estimate:
        return self.collateral if kind == "collateral" else self.damage

    def placed(self, kind: Cost) -> bool:
        """Whether what comes back and this cost were both measured."""
        return bool(self.back) and bool(self.cost(kind))

    @property
    def where(self) -> str:
        """The strength, as a multiple of the method's ordinary one; where that is not told, the field's value. Empty without a field."""
        p = self.point
        return "" if not p.field else f"at {p.strength:g}" if math.isfinite(p.strength) else f"at {p.field}={p.value:g}"

    @property
    def collapsed(self) -> bool:
        """Nothing comes back from a model that says nothing: it is drawn, and is on no frontier and within no budget."""
        return self.damage.value > COLLAPSED

    def beats(self, other: Setting, kind: Cost) -> bool:
        """No more comes back at no more cost, and less of one of them."""
        mine, theirs = ((s.back.value, s.cost(kind).value) for s in (self, other))
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


@dataclass(frozen=True)
class Curve:
    """The settings of one method, the weakest first; a method without a strength, or a reference, has one."""

    method: str
    settings: tuple[Setting, ...]
    reference: bool = False

    def frontier(self, kind: Cost) -> tuple[Setting, ...]:
        """The settings that no other of this method beats, collapsed ones left out."""
        alive = [s for s in self.settings if s.placed(kind) and not s.collapsed]
        return tuple(s for s in alive if not any(other.beats(s, kind) for other in alive))

    def within(self, kind: Cost, budget: float) -> Setting | None:
        """The setting of which the least comes back among those that cost at most the budget; None: there is none."""
        affordable = [s for s in self.settings if s.placed(kind) and not s.collapsed and s.cost(kind).value <= budget]
        return min(affordable, key=lambda s: (s.back.value, s.cost(kind).value), default=None)


def operating_curves(results: Results, table: MainTable) -> list[Curve]:
    """A curve for each method in the order of the table, those of one setting too; nothing where the run has no strengths."""
    points = {p.row: p for p in results.points}
    found: dict[str, list[Setting]] = {}
    for row in table.rows if points else ():
        point = points.get(row.method, OperatingPoint(row.method, row.method, 1.0, "", math.nan))
        found.setdefault(point.method, []).append(_setting(row, point, table))
    references = {row.method for row in table.rows if row.reference}
    return [Curve(m, tuple(sorted(s, key=lambda s: s.point.strength)), m in references) for m, s in found.items()]


def _setting(row: MethodRow, point: OperatingPoint, table: MainTable) -> Setting:
    return Setting(point, row.recovery.worst_length, table.ranked(row), row.utility.collateral, row.utility.damage)


def back_words(table: MainTable) -> str:
    """What of a setting comes back, with its unit."""
    return f"excess over the twin, {table.unit.name}"


def curve_grids(results: Results, table: MainTable) -> list[Grid]:
    """What budgets buy, and every setting; nothing where the run has no strengths."""
    curves = operating_curves(results, table)
    return [budget_grid(curves, back_words(table)), setting_grid(curves, back_words(table), table.unit.name)] if curves else []


def budget_grid(curves: Sequence[Curve], back: str) -> Grid:
    """What each budget buys, a row for each curve; `back` says what of a setting comes back, with its unit."""
    what, _, unit = back.rpartition(", ")
    caption = (
        f"The least {what} ({unit}) among a method's strengths that stay within a budget, with its 95% interval and the strength; "
        f"{NOT_REACHED}: none does. Which strengths are within is decided by their means. The least of several is a little too good, and "
        f"the interval is that of the chosen strength alone. Curves are of {_seeds(curves)}."
    )
    if any(c.reference for c in curves):
        caption += " The held model (none) is what a method has to beat within a budget; it lost some quality itself, by the injection."
    rows = [
        GridRow([Cell(curve.method), *(_bought(curve.within(kind, budget)) for kind, budget in COLUMNS)], faint=curve.reference)
        for curve in curves
    ]
    return Grid("budgets", "What a budget buys", caption, ["Method", *(f"{k} ≤ {b:g}{UNITS[k]}" for k, b in COLUMNS)], rows)


def _seeds(curves: Sequence[Curve]) -> str:
    """How many seeds the settings are of; they may be fewer than a row's own."""
    counts = sorted({len(s.matched.by_seed) for c in curves for s in c.settings if s.matched.by_seed})
    return f"{' or '.join(map(str, counts)) or 'no'} {'seed' if counts == [1] else 'seeds'}"


def _bought(setting: Setting | None) -> Cell:
    return cell(setting.back, note=setting.where) if setting else Cell(NOT_REACHED)


def setting_grid(curves: Sequence[Curve], back: str, tokens: str = "") -> Grid:
    """Every setting, and of which frontiers it is; `tokens` is what matched lengths are counted in, if they have a column of their own."""
    told = any(math.isfinite(s.point.strength) for c in curves for s in c.settings)
    ordinary = "Strength 1 is the method's ordinary run; others change the one field that it declares. " if told else ""
    matched = "Matched: mean over forget memories of the longest match of the battery. " if tokens else ""
    caption = (
        f"{ordinary}{matched}Frontier: no other strength of the method gives back less at no more collateral, or damage. "
        f"Collapsed settings (damage above {COLLAPSED:.0f}%) are on no frontier and within no budget."
    )
    header = [
        "Method",
        "Strength",
        "Field",
        *([f"Matched {tokens}"] if tokens else []),
        back.capitalize(),
        "Collateral",
        "Damage %",
        "Frontier",
    ]
    rows = []
    for curve in curves:
        frontiers = {kind: curve.frontier(kind) for kind in BUDGETS}
        for s in curve.settings:
            p = s.point
            strength = f"{p.strength:g}" if math.isfinite(p.strength) else MISSING
            where = [Cell(strength if p.field else ""), Cell(f"{p.field}={p.value:g}" if p.field else "")]
            on = ", ".join(kind for kind, settings in frontiers.items() if s in settings)
            cells = [Cell(curve.method), *where, *map(cell, (*([s.matched] if tokens else []), s.back, s.collateral, s.damage)), Cell(on)]
            rows.append(GridRow(cells, faint=curve.reference))
    return Grid("strengths", "At each strength", caption, *known_columns(header, rows))


def settings_frame(results: Results, table: MainTable) -> pd.DataFrame:
    """A line for each setting: raw numbers with intervals, and whether it is on its method's frontiers."""
    return pd.DataFrame([_line(curve, s, table) for curve in operating_curves(results, table) for s in curve.settings])


def budgets_frame(results: Results, table: MainTable) -> pd.DataFrame:
    """A line for each method and budget: the least excess within it and at which strength; NaN where the budget is not reached."""
    lines = []
    for curve in operating_curves(results, table):
        for kind, budget in COLUMNS:
            s = curve.within(kind, budget)
            bought = {"reached": s is not None, "strength": s.point.strength if s else math.nan}
            bought |= _numbers(EXCESS, s.back) if s else {}
            lines.append({"method": curve.method, "cost": kind, "budget": budget, **bought})
    return pd.DataFrame(lines)


def _line(curve: Curve, s: Setting, table: MainTable) -> dict[str, Any]:
    p = s.point
    line: dict[str, Any] = {"method": curve.method, "row": p.row, "strength": p.strength, "field": p.field, "value": p.value}
    named = {"matched_tokens": s.matched, EXCESS: s.back, "collateral_points": s.collateral, "damage_percent": s.damage}
    for name, x in named.items():
        line |= _numbers(name, x)
    return line | {f"frontier_{kind}": s in curve.frontier(kind) for kind in BUDGETS}


def _numbers(name: str, x: Estimate) -> dict[str, float]:
    return {name: x.value, f"{name}_low": x.low, f"{name}_high": x.high}
