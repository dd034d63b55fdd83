"""The tables as text: cells with value and interval apart, so that every renderer can set them in its own way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from .statistics import Estimate
from .tables import BASE, COLLAPSED, MainTable, MethodRow

MISSING = "–"
MARKS = {"best": "*", "tied": "≈", "": ""}
COLLAPSE_MARK = "†"


@dataclass(frozen=True)
class Cell:
    """Plain text, not yet escaped for anything."""

    text: str
    interval: str = ""  # "[low, high]", in the same unit
    note: str = ""  # smaller print: the seeds' range

    def __str__(self) -> str:
        return " ".join(part for part in (self.text, self.interval, self.note) if part)


@dataclass(frozen=True)
class GridRow:
    cells: list[Cell]
    strong: bool = False  # best, or tied with it
    faint: bool = False  # collapsed, or a reference


@dataclass(frozen=True)
class Grid:
    """One table of the report."""

    key: str
    title: str
    caption: str
    header: list[str]
    rows: list[GridRow] = field(default_factory=list)


def number(x: float, digits: int = 1) -> str:
    """Rounded, with a true minus sign, never "-0.0"; a dash for NaN."""
    if not math.isfinite(x):
        return MISSING
    return f"{round(x, digits) + 0.0:.{digits}f}".replace("-", "−")


def cell(x: Estimate, factor: float = 1.0, seeds: bool = False) -> Cell:
    """Value and interval of an estimate times `factor`, with the range over seeds on request."""
    if not x:
        return Cell(MISSING)
    known = math.isfinite(x.low) and math.isfinite(x.high)
    interval = f"[{number(x.low * factor)}, {number(x.high * factor)}]" if known else ""
    shown = [v * factor for v in x.by_seed]
    note = f"seeds {number(min(shown))} to {number(max(shown))}" if seeds and len(shown) > 1 else ""
    return Cell(number(x.value * factor), interval, note)


def p_value(p: float) -> Cell:
    return Cell("<.001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 1 else "1")


def name_cell(row: MethodRow) -> Cell:
    return Cell(" ".join(part for part in (row.method, MARKS[row.standing], COLLAPSE_MARK * row.collapsed) if part))


Reader = Callable[[MethodRow], Cell]


def main_columns(table: MainTable, seeds: bool = True) -> dict[str, Reader]:
    """Header -> how to read a cell, for the main table."""
    if table.calibrated:
        verdict: dict[str, Reader] = {"Leak %": lambda r: cell(r.leaks[0].leak, 100, seeds)}
    else:
        verdict = {"Excess tokens": lambda r: cell(r.leaks[0].excess, 1, seeds)}
    return {
        "Method": name_cell,
        "Exact %": lambda r: cell(r.exact, 100, seeds),
        "Worst %": lambda r: cell(r.worst, 100),
        "Worst tokens": lambda r: cell(r.worst_length),
        **verdict,
        "Damage %": lambda r: cell(r.damage),
        "Collateral": lambda r: cell(r.collateral),
        "Seconds": lambda r: Cell(number(r.seconds, 0)),
    }


def grids(table: MainTable) -> list[Grid]:
    """The tables of the report: main, matched length by attack, gain by attack, and where there are several, access and tasks."""
    found = [_grid(table, "main", "Does the text come back?", main_caption(table), main_columns(table))]
    found += [_attack_grid(table), _gain_grid(table)]
    if len(table.calibrations) > 1:
        found.append(_access_grid(table))
    if any(len(row.tasks) > 1 for row in table.rows):
        found.append(_task_grid(table))
    return found


def main_caption(table: MainTable) -> str:
    """What the columns mean, the calibration, and the twin's own values."""
    level = table.access
    twin = f"The twin itself: exact {cell(table.twin.exact, 100)}%, worst case {cell(table.twin.worst_length)} tokens."
    return (
        f"{table.memories} forget memories over {len(table.seeds)} seed{'s' * (len(table.seeds) != 1)}, with 95% intervals. "
        "Exact: share of forget memories of which the exact opening brings back all 64 tokens. "
        f"Worst: the same share, and the mean matched length, for the best {level} attack on each memory. "
        f"{_verdict_text(table)} "
        "Damage: bits per byte lost against the twin, in %. "
        "Collateral: hidden keep memories that can no longer be repeated, in points. "
        f"{MARKS['best']} best, {MARKS['tied']} cannot be told from the best, {COLLAPSE_MARK} collapsed "
        f"(damage above {COLLAPSED:.0f}%). {twin}"
    )


def _verdict_text(table: MainTable) -> str:
    calibration = table.calibrations[table.access]
    if not calibration.possible:
        return (
            "Excess: mean worst-case matched length minus that of the retrained twin, in tokens. "
            f"(The null has {calibration.size} values; a leak calibrated at 1% needs 300.)"
        )
    left_out = f" Too few null values, and so left out: {', '.join(calibration.left_out)}." if calibration.left_out else ""
    return (
        "Leak: share of memories recovered beyond chance minus the retrained twin's share, among those that the held model "
        f"repeats exactly; calibrated on {calibration.size} null values, measured false positives "
        f"{number(100 * calibration.false_positives)}%.{left_out}"
    )


def _grid(table: MainTable, key: str, title: str, caption: str, columns: dict[str, Reader]) -> Grid:
    rows = [GridRow([read(row) for read in columns.values()], bool(row.standing), row.collapsed or row.reference) for row in table.rows]
    return Grid(key, title, caption, list(columns), rows)


def _attacks(table: MainTable) -> list[str]:
    return list(dict.fromkeys(a.attack for row in (table.twin, *table.rows) for a in row.attacks))


def _by_attack(attack: str, read: Callable[[Any], Cell]) -> Reader:
    return lambda row: next((read(a) for a in row.attacks if a.attack == attack), Cell(MISSING))


def _attack_grid(table: MainTable) -> Grid:
    caption = (
        "Mean matched length in tokens (of 64) over the forget memories, each attack at its best variant. "
        "Verbatim memorised length: the longest match over windows from every start, prefixes included. "
        f"The twin, which never held them: {_twin_lengths(table)}."
    )
    columns: dict[str, Reader] = {"Method": name_cell, "exact opening": lambda r: cell(r.opening)}
    columns |= {name: _by_attack(name, lambda a: cell(a.matched)) for name in _attacks(table)}
    columns |= {"verbatim memorised length": lambda r: cell(r.verbatim), "worst case": lambda r: cell(r.worst_length)}
    return _grid(table, "attacks", "How far each attack reads", caption, columns)


def _twin_lengths(table: MainTable) -> str:
    lengths = {"exact opening": table.twin.opening} | {a.attack: a.matched for a in table.twin.attacks}
    return ", ".join(f"{name} {number(x.value)}" for name, x in lengths.items())


def _gain_grid(table: MainTable) -> Grid:
    caption = (
        "Tokens that an attack adds to the exact opening, minus what it adds on the twin (a maximum over many questions grows "
        "by itself). In brackets the 95% interval, then p: matched length against the twin's on the same memories, paired "
        "permutation test, Holm over attacks."
    )
    columns: dict[str, Reader] = {"Method": name_cell}
    for name in _attacks(table):
        columns[name] = _by_attack(
            name, lambda a: Cell(number(a.gain.value), cell(a.gain).interval, f"p {p_value(a.p).text}" if a.gain else "")
        )
    return _grid(table, "gains", "What each attack adds", caption, columns)


def _access_grid(table: MainTable) -> Grid:
    caption = (
        "Leak in % where the null of the level allows it, else raw excess over the twin in tokens; p: exact McNemar test "
        "against the twin on the same memories."
    )
    columns: dict[str, Reader] = {"Method": name_cell}
    for i, level in enumerate([table.access, *(a for a in table.calibrations if a != table.access)]):
        leaks = table.calibrations[level].possible

        def read(row: MethodRow, i: int = i, leaks: bool = leaks) -> Cell:
            found = row.leaks[i]
            shown = cell(found.leak, 100) if leaks else cell(found.excess)
            return Cell(shown.text, shown.interval, f"p {p_value(found.p).text}")

        columns[f"{level}, {'%' if leaks else 'tokens'}"] = read
    return _grid(table, "access", "By access of the attacker", caption, columns)


def _task_grid(table: MainTable) -> Grid:
    caption = (
        "What is lost against the twin of the same seed: % where lower is better, points of accuracy elsewhere; negative is "
        "a gain. ± is the standard error of the paired differences over documents."
    )
    columns: dict[str, Reader] = {"Method": name_cell}
    for key in dict.fromkeys((t.task, t.metric, t.unit) for row in table.rows for t in row.tasks):

        def read(row: MethodRow, key: tuple[str, str, str] = key) -> Cell:
            found = next((t for t in row.tasks if (t.task, t.metric, t.unit) == key), None)
            shown = cell(found.loss) if found else Cell(MISSING)
            return Cell(shown.text, shown.interval, f"±{number(found.stderr)}" if found else "")

        columns[f"{key[0]} ({key[1]}), {key[2]}"] = read
    if table.base:
        before = replace(table.twin, method=f"{BASE} (before injection)", tasks=table.base)
        table = replace(table, rows=[before, *table.rows])
    return _grid(table, "tasks", "What forgetting cost", caption, columns)


def as_frame(table: MainTable) -> pd.DataFrame:
    """One line per method with raw numbers: every estimate as value, _low, _high and _spread; shares stay in [0, 1]."""
    return pd.DataFrame([_flat(row) for row in table.rows])


def _flat(row: MethodRow) -> dict[str, Any]:
    estimates = {"exact_rate": row.exact, "worst_rate": row.worst, "worst_tokens": row.worst_length}
    for leak in row.leaks:
        estimates |= {f"leak:{leak.access}": leak.leak, f"excess_tokens:{leak.access}": leak.excess}
    estimates |= {
        "damage_percent": row.damage,
        "collateral_points": row.collateral,
        "opening_tokens": row.opening,
        "verbatim_tokens": row.verbatim,
    }
    for a in row.attacks:
        estimates |= {f"tokens:{a.attack}": a.matched, f"gain_tokens:{a.attack}": a.gain}
    estimates |= {f"loss_{t.unit.strip('%') or 'percent'}:{t.task}:{t.metric}": t.loss for t in row.tasks}
    flat: dict[str, Any] = {"method": row.method, "standing": row.standing, "collapsed": row.collapsed}
    for name, x in estimates.items():
        flat |= {name: x.value, f"{name}_low": x.low, f"{name}_high": x.high, f"{name}_spread": x.spread}
    return flat | {"seconds": row.seconds}
