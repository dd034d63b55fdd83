"""Tables about ranks: who stands where within the budgets, how firm that is, and how much of the texts comes back."""

from __future__ import annotations

import math

from .cells import MISSING, Cell, Grid, GridRow, cell, number
from .ranking import APART, DRAWS, NO_BUDGET
from .severity import AT_LEAST
from .tables import MainTable, MethodRow

OVER = "over budget"


def rank_grid(table: MainTable) -> Grid | None:
    """Ranks, and beside them what stronger attackers get and what forgetting cost; None where nobody competes."""
    rows = _contenders(table)
    if not rows:
        return None
    levels = [leak.access for leak in table.twin.recovery.leaks]
    caption = (
        f"Ranked by the excess over the twin, in {table.unit.name}, under {table.access} attacks, among the methods within the budgets "
        f"({table.ranking.budget}); the others are listed as {OVER}, small, by what. A rank reaches from one more than the methods surely "
        "better to all but those surely worse: paired permutation test on the questions that both were asked, Holm over all pairs, "
        f"{100 * APART:.0f}%.{_circle(table)}{_survivors(table)}"
    )
    found = []
    for row in rows:
        excesses = [cell(x.excess) for x in row.recovery.leaks]
        cells = [Cell(row.method), _rank(row), *excesses, cell(row.utility.damage), cell(row.utility.collateral)]
        found.append(GridRow(cells, bool(row.standing), row.place is None))
    titles = [f"{level}, {table.unit.name}" for level in levels]
    return Grid("ranking", "Who forgets best within the budgets?", caption, ["Method", "Rank", *titles, "Damage %", "Collateral"], found)


def stability_grid(table: MainTable) -> Grid | None:
    """Ranks over draws of seeds and memories, and under other budgets; None where fewer than two methods could be ranked."""
    found = table.ranking
    names = [row.method for row in _contenders(table) if row.method in found.by_budget.get(NO_BUDGET, {})]
    if len(names) < 2:
        return None
    caption = (
        f"Ranks by the order of the means alone, in {DRAWS} draws of seeds and of memories within them, the same for all methods (with "
        "one seed, of memories alone; who is within budget stays): how often nobody stands before the method, and from "
        "which to which rank 95% of the draws put it. Then its rank, as above, were the budgets others: damage in %, collateral in points."
    )
    titles = {words: "no budgets" if words == NO_BUDGET else _short(words) for words in found.by_budget}
    rows = []
    for name in names:
        draws = found.draws.get(name)
        drawn = [Cell(number(100 * draws.first)), Cell(str(draws.middle))] if draws else [Cell(MISSING)] * 2
        others = [Cell(str(ranks[name]) if name in ranks else OVER) for ranks in found.by_budget.values()]
        rows.append(GridRow([Cell(name), *drawn, *others], faint=draws is None))
    return Grid("stability", "How firm are the ranks?", caption, ["Method", "First, % of draws", "95% of draws", *titles.values()], rows)


def severity_grid(table: MainTable) -> Grid:
    """The shares of memories of which so much comes back, with intervals."""
    bound = " Some attacks were asked about survivors only." if table.access in table.notes.survivors else ""
    caption = (
        f"Share in % of all forget memories of which at least so many {table.unit.name} come back under the best of the {table.access} "
        f"attacks that the twin was asked too, minus the twin's share.{bound} Such shares, added up over 1 to {AT_LEAST[-1]} "
        f"{table.unit.name}, are the excess."
    )
    header = ["Method", *(f"All {n}" if n == AT_LEAST[-1] else f"At least {n}" for n in AT_LEAST)]
    rows = [GridRow([Cell(r.method), *(cell(x, 100) for x in r.recovery.severity.shares)], bool(r.standing), r.aside) for r in table.rows]
    return Grid("severity", "How much comes back?", caption, header, rows)


def _contenders(table: MainTable) -> list[MethodRow]:
    """Rows with a rank, in the order of what they are ranked by, then those that cost too much."""
    rows = [row for row in table.rows if row.place or row.over]
    value = {row.method: x if math.isfinite(x := table.ranked(row).value) else math.inf for row in rows}
    return sorted(rows, key=lambda row: (row.place is None, value[row.method]))


def _rank(row: MethodRow) -> Cell:
    return Cell(str(row.place)) if row.place else Cell(OVER, note=", ".join(row.over))


def _circle(table: MainTable) -> str:
    rule = " Ties are not transitive, so each rank is read from the method's own pairs"
    if table.ranking.circle is None:
        return f"{rule}."
    a, b, c = table.ranking.circle
    return f"{rule}: here {a} ties with {b} and {b} with {c}, but {a} and {c} are told apart."


def _survivors(table: MainTable) -> str:
    """What the excesses of some levels do not tell."""
    levels = ", ".join(table.notes.survivors)
    said = "some attacks were asked about survivors only, so the excess there is over fewer questions where cheaper attacks had success."
    return f" At {levels} {said}" if levels else ""


def _short(words: str) -> str:
    """The budgets of `Budget.__str__` as a title."""
    return words.replace("damage at most ", "").replace("collateral at most ", "")
