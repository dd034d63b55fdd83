"""The tables of a report: the main one, access levels and tasks here, the others beside; all as text cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..benchmark.scoring.calibration import FEWEST_NULL
from .attack_grids import attack_grid, gain_grid, recovered_grid, reversal_grid, threshold_grid
from .cells import MISSING, Cell, Grid, GridRow, cell, known_columns, listed, number, p_value
from .costs import QUANTITIES, CostCell
from .flags import COLLAPSED, HIGH_NULL
from .rank_grids import rank_grid, severity_grid, stability_grid
from .severity import in_words, sparkline
from .tables import BASE, MainTable, MethodRow
from .units import Unit
from .value_grids import extraction_grid, flag_grid, membership_grid, number_grid, relearn_grid

MARKS = {"best": "*", "tied": "≈", "": ""}
COLLAPSE_MARK, OVER_MARK = "†", "‡"
SEVERITY = "Severity %"
Reader = Callable[[MethodRow], Cell]


def grids(table: MainTable) -> list[Grid]:
    """Every table for which something was measured, in the order of the report."""
    main = _grid(table, "main", "Does the text come back?", main_caption(table), main_columns(table))
    found = [replace(main, definitions=main_definitions(table))]
    if len(table.calibrations) > 1:
        found.append(_access_grid(table))
    found += [grid for make in (rank_grid, stability_grid) if (grid := make(table)) is not None]
    found += [severity_grid(table), attack_grid(table)]
    makers = (
        gain_grid, recovered_grid, threshold_grid, reversal_grid, relearn_grid, extraction_grid, membership_grid, number_grid, flag_grid,
    )  # fmt: skip
    found += [grid for make in makers if (grid := make(table)) is not None]
    if any(len(row.utility.tasks) > 1 for row in table.rows):
        found.append(_task_grid(table))
    if any(row.costs for row in table.rows):
        found.append(_cost_grid(table))
    return found


def name_cell(row: MethodRow) -> Cell:
    """The method's name with its standing."""
    over = OVER_MARK * (bool(row.over) and not row.collapsed)
    return Cell(" ".join(part for part in (row.method, MARKS[row.standing], COLLAPSE_MARK * row.collapsed, over) if part))


def flagged_cell(row: MethodRow) -> Cell:
    """The same with the row's rank and the marks of its flags below."""
    marks = [f.flag.mark for f in row.flags if f.raised and f.flag.mark != COLLAPSE_MARK]
    parts = [f"rank {row.place}" if row.place else "", f"flags {' '.join(marks)}" if marks else ""]
    return replace(name_cell(row), interval=", ".join(filter(None, parts)))


def _severity(row: MethodRow, unit: Unit) -> Cell:
    found = row.recovery.severity
    if not all(found.shares):
        return Cell(MISSING)
    shares = [number(100 * x.value, 0) for x in found.shares]
    return Cell(" / ".join(shares), svg=sparkline(found.curve, in_words(shares, unit.name)))


def main_columns(table: MainTable, seeds: bool = True) -> dict[str, Reader]:
    """Header -> how to read a cell, for the main table."""
    verdict: dict[str, Reader] = {f"Excess {table.unit.name}": lambda r: cell(r.recovery.leaks[0].excess, 1, seeds)}
    if table.calibrated:
        verdict["Leak %"] = lambda r: cell(r.recovery.leaks[0].leak, 100, seeds)
    return {
        "Method": flagged_cell,
        "Exact %": lambda r: cell(r.recovery.exact, 100, seeds),
        "Worst %": lambda r: cell(r.recovery.worst, 100),
        f"Worst {table.unit.name}": lambda r: cell(r.recovery.worst_length),
        **verdict,
        SEVERITY: lambda r: _severity(r, table.unit),
        "Damage %": lambda r: cell(r.utility.damage),
        "Keeps %": lambda r: Cell(number(100 * r.utility.kept.value)),
        "Collateral": lambda r: cell(r.utility.collateral),
        "Seconds": lambda r: Cell(number(r.seconds, 0)),
    }


def main_caption(table: MainTable) -> str:
    """How much was measured, what the marks mean, the flags that were raised, and the twin's own values."""
    twin = table.twin.recovery
    collapsed = f"{COLLAPSE_MARK} collapsed (damage above {COLLAPSED:.0f}%)"
    over = f", {OVER_MARK} over budget ({table.ranking.budget})" if any(r.over and not r.collapsed for r in table.rows) else ""
    sentences = [
        f"{table.notes.memories} forget memories over {len(table.seeds)} seed{'s' * (len(table.seeds) != 1)}, with 95% intervals.",
        f"{MARKS['best']} best, {MARKS['tied']} cannot be told from the best, {collapsed}{over}."
        if table.notes.learnt
        else f"{collapsed}.",
        _legend(table),
        f"The twin itself: exact {cell(twin.exact, 100)}%, worst case {cell(twin.worst_length)} {table.unit.name}, "
        f"keeps {number(100 * table.twin.utility.kept.value)}%."
        if table.twin.method
        else "No retrained model: nothing is subtracted, and damage is against the held model.",
        table.unit.note,
    ]
    return " ".join(s for s in sentences if s)


def main_definitions(table: MainTable) -> dict[str, str]:
    """Word of the header -> what it means, and what was calibrated."""
    bound = (
        " Expensive attacks were asked on a fixed subset and where nothing cheaper had recovered a memory, so this is a lower bound."
        if table.access in table.notes.survivors
        else ""
    )
    return {
        "Exact": f"share of forget memories of which the exact opening brings back {table.unit.whole}.",
        "Worst": f"the best {table.access} attack on each memory: the same share in %, and the mean matched length in "
        f"{table.unit.long}.{bound}",
        **_verdict(table),
        "Severity": f"share of forget memories of which {table.unit.amounts} come back under these attacks, minus the "
        f"twin's; drawn: the same from 1 to 64 {table.unit.name}.",
        "Damage": f"{table.notes.damage_of} lost against the twin, in % of the twin's; a row without it cannot be best.",
        "Keeps": "share of all keep memories, which every model was trained on, that the exact opening brings back whole; a sign of life.",
        "Collateral": "hidden keep memories that can no longer be repeated, in points.",
    }


def _legend(table: MainTable) -> str:
    raised = {f.flag.mark: f.flag for row in table.rows for f in row.flags if f.raised and f.flag.mark != COLLAPSE_MARK}
    marks = "; ".join(flag.legend for flag in raised.values())
    high = f"Null too high (q_a above {HIGH_NULL:.0f} tokens, so hardly a match can count): {listed(table.notes.high_nulls)}."
    return " ".join(([f"Flags: {marks}."] if marks else []) + ([high] if table.notes.high_nulls else []))


def _verdict(table: MainTable) -> dict[str, str]:
    calibration = table.calibrations[table.access]
    excess = f"mean worst-case matched length minus that of the retrained twin, in {table.unit.long}; what ranks go by."
    if not calibration.possible:
        return {"Excess": f"{excess} (The null has {calibration.size} values; a leak calibrated at 1% needs {FEWEST_NULL}.)"}
    left_out = f" Too few null values, and so left out: {', '.join(calibration.left_out)}." if calibration.left_out else ""
    return {
        "Excess": excess,
        "Leak": "share of memories recovered beyond chance minus the retrained twin's share, among those that the held model "
        f"repeats exactly; calibrated on {calibration.size} null values, measured false positives "
        f"{number(100 * calibration.false_positives)}%.{left_out}",
    }


def _grid(table: MainTable, key: str, title: str, caption: str, columns: dict[str, Reader]) -> Grid:
    rows = [GridRow([read(row) for read in columns.values()], bool(row.standing), row.aside) for row in table.rows]
    return Grid(key, title, caption, list(columns), rows)


def _access_grid(table: MainTable) -> Grid:
    levels = [table.access, *(a for a in table.calibrations if a != table.access)]
    left_out = {level: c.left_out for level, c in table.calibrations.items() if c.possible and c.left_out}
    caption = (
        "Each attacker has the attacks of its own level and of all weaker ones, and thresholds of its own. Leak in % where the null "
        f"of the level allows it, else raw excess over the twin in {table.unit.long}; p: exact McNemar test against the twin on the same "
        "memories; "
        "then, beside a leak, the raw excess."
        + "".join(f" Left out of {level} for too few null values: {', '.join(names)}." for level, names in left_out.items())
    )
    columns: dict[str, Reader] = {"Method": name_cell}
    for i, level in enumerate(levels):
        leaks = table.calibrations[level].possible

        def read(row: MethodRow, i: int = i, leaks: bool = leaks) -> Cell:
            found = row.recovery.leaks[i]
            if not leaks:
                return cell(found.excess, note=p_value(found.p))
            return cell(
                found.leak, 100, note=", ".join(filter(None, (p_value(found.p), f"{number(found.excess.value)} {table.unit.name}")))
            )

        columns[f"{level}, {'%' if leaks else table.unit.name}"] = read
    return _grid(table, "access", "By access of the attacker", caption, columns)


def _task_grid(table: MainTable) -> Grid:
    caption = (
        "What is lost against the twin of the same seed: % where lower is better, points of accuracy elsewhere; negative is "
        "a gain. ± is the standard error of the paired differences over documents."
    )
    columns: dict[str, Reader] = {"Method": name_cell}
    for key in dict.fromkeys((t.task, t.metric, t.unit) for row in table.rows for t in row.utility.tasks):

        def read(row: MethodRow, key: tuple[str, str, str] = key) -> Cell:
            found = next((t for t in row.utility.tasks if (t.task, t.metric, t.unit) == key), None)
            return cell(found.loss, note=f"±{number(found.stderr)}") if found else Cell(MISSING)

        columns[f"{key[0]} ({key[1]}), {key[2]}"] = read
    if table.base:
        before = replace(table.twin, method=f"{BASE} (before injection)", utility=replace(table.twin.utility, tasks=table.base))
        table = replace(table, rows=[before, *table.rows])
    return _grid(table, "tasks", "What forgetting cost", caption, columns)


def _cost_grid(table: MainTable) -> Grid:
    caption = (
        "From the held model to the method's own, means over seeds; small, as a multiple of retrain. Tokens: of all rows trained on. "
        "TFLOPs: 10^12 operations of matrix products and attention, those of reference passes included, on all processes together. "
        "Peak: memory at its highest, above what the process held before (tensors on a GPU, else resident memory). Seconds and peak "
        "depend on the machine."
    )
    rows = [GridRow([name_cell(row), *map(_cost, row.costs)]) for row in table.rows if row.costs]
    header, rows = known_columns(["Method", *(title for title, _ in QUANTITIES.values())], rows)
    return Grid("costs", "What forgetting took", caption, header, rows)


def _cost(x: CostCell) -> Cell:
    shown = number(x.mean / QUANTITIES[x.quantity][1], 2 if x.quantity == "flops" else 0)
    ratio = number(x.ratio, 3)
    return Cell(shown, note="" if MISSING in (shown, ratio) else f"×{ratio}")
