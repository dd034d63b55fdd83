"""Tables about single attacks: how far each reads, what it adds, what it recovers, what it undoes. The twin is their last row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..benchmark.scoring.score import UNCHANGED
from .attacks import AttackCell
from .cells import MISSING, Cell, Grid, GridRow, cell, known_columns, number, p_value
from .tables import MainTable, MethodRow

Reader = Callable[[MethodRow], Cell]
TWIN = "the twin"


def attack_grid(table: MainTable) -> Grid:
    """Mean matched length of every attack."""
    caption = (
        f"Mean matched length in {table.unit.scale} over the forget memories that every model is asked about, each attack at its best "
        "variant. Verbatim memorised length: the longest match over all windows that were asked, prefixes included. "
        f"The twin never held them.{_diagnostics(table)}"
    )
    columns: dict[str, Reader] = {"exact opening": lambda r: cell(r.recovery.opening)}
    columns |= {name: _by_attack(name, lambda a: cell(a.matched)) for name in _attacks(table)}
    columns["verbatim memorised length"] = lambda r: cell(r.recovery.verbatim)
    columns[f"worst case, {table.access}"] = lambda r: cell(r.recovery.worst_length)
    return _grid(table, "attacks", "How far each attack reads", caption, columns, twin=True)


def gain_grid(table: MainTable) -> Grid | None:
    """What every attack adds to the exact opening; None without a twin, whose own gain is subtracted."""
    if not any(a.gain for row in table.rows for a in row.recovery.attacks):
        return None
    caption = (
        f"{table.unit.name.capitalize()} that an attack adds to the exact opening, minus what it adds on the twin (a maximum over many "
        "questions grows by itself). In brackets the 95% interval, then p: matched length against the twin's on the same memories, paired "
        f"permutation test, Holm over attacks.{_diagnostics(table)}"
    )
    columns = {name: _by_attack(name, lambda a: cell(a.gain, note=p_value(a.p))) for name in _attacks(table)}
    return _grid(table, "gains", "What each attack adds", caption, columns)


def recovered_grid(table: MainTable) -> Grid | None:
    """The share that every attack recovers alone; None where no attack is calibrated."""
    if not any(a.recovered for row in table.rows for a in row.recovery.attacks):
        return None
    caption = (
        "Memories in % that an attack recovers alone, at the thresholds of its access level, among the forget memories that every "
        "model is asked about and that the held model repeats exactly. p: exact McNemar test against the twin on the same memories, "
        "Holm over attacks. The worst case over attacks is one test of its own, the leak."
    )
    columns = {name: _by_attack(name, lambda a: cell(a.recovered, 100, note=p_value(a.recovered_p))) for name in _attacks(table)}
    return _grid(table, "recovered", "What each attack recovers", caption, columns, twin=True)


def threshold_grid(table: MainTable) -> Grid | None:
    """What a match must exceed to count, attack by attack; None where no attack is calibrated."""
    possible = {level: c for level, c in table.calibrations.items() if c.possible}
    if not possible:
        return None
    levels = "; ".join(f"{a} τ {number(c.tau)}, {c.size} values, {number(100 * c.false_positives)}%" for a, c in possible.items())
    caption = (
        "Tokens. q: what 99% of the matches reach at most where nothing was held. A memory counts as recovered by an attack if it matched "
        f"more than the limit of an access level, its q + τ and at least 7; levels above an attack's own have limits of their own."
        f"{table.unit.recovered} τ, null values and measured false positives of the levels: {levels}."
    )
    columns = [f"limit, {level}" for level in possible]
    rows = []
    for attack, level in {a.attack: a.access for row in (table.twin, *table.rows) for a in row.recovery.attacks}.items():
        limits = [number(c.threshold(attack)) if attack in c.quantiles else MISSING for c in possible.values()]
        quantile = next((c.quantiles[attack] for c in possible.values() if attack in c.quantiles), None)
        if quantile is not None:
            rows.append(GridRow([Cell(attack), Cell(level), Cell(number(quantile)), *map(Cell, limits)]))
    return Grid("thresholds", "What counts as recovered", caption, ["Attack", "Access", "q", *columns], rows)


def reversal_grid(table: MainTable) -> Grid | None:
    """How much of the unlearning each change of the model undoes; None without such attacks."""
    if not any(x.share for row in table.rows for x in row.recovery.reversals):
        return None
    caption = (
        "Share in % of the unlearning that an attack undoes: (attacked − unlearned) / (held − unlearned), in mean matched "
        f"{table.unit.name} on the same memories with the prompts that changed models are asked with ({UNCHANGED}: the model as it is, "
        f"asked with those); shown where more than one {table.unit.one} was unlearned.{_diagnostics(table)}"
    )
    names = list(dict.fromkeys(x.attack for row in table.rows for x in row.recovery.reversals))

    def of(name: str) -> Reader:
        return lambda row: next((cell(x.share, 100) for x in row.recovery.reversals if x.attack == name), Cell(MISSING))

    return _grid(table, "reversal", "What changing the model undoes", caption, {name: of(name) for name in names})


def _attacks(table: MainTable) -> list[str]:
    return list(dict.fromkeys(a.attack for row in (table.twin, *table.rows) for a in row.recovery.attacks))


def _diagnostics(table: MainTable) -> str:
    names = dict.fromkeys(a.attack for row in table.rows for a in row.recovery.attacks if a.diagnostic)
    return f" Diagnostics, which are never part of the worst case or of leak: {', '.join(names)}." if names else ""


def _by_attack(attack: str, read: Callable[[AttackCell], Cell]) -> Reader:
    return lambda row: next((read(a) for a in row.recovery.attacks if a.attack == attack), Cell(MISSING))


def _grid(table: MainTable, key: str, title: str, caption: str, columns: dict[str, Any], twin: bool = False) -> Grid:
    """Methods as rows and attacks as columns, or the other way round where that is narrower."""
    rows = [GridRow([Cell(row.method), *(read(row) for read in columns.values())], bool(row.standing), row.aside) for row in table.rows]
    if twin and table.twin.method:
        rows.append(GridRow([Cell(TWIN), *(read(table.twin) for read in columns.values())], faint=True))
    header, rows = known_columns(["Method", *columns], rows)
    return Grid(key, title, caption, header, rows).narrow("Attack")
