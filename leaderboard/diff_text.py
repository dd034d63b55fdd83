"""A comparison as text for a terminal, as JSON, and as annotations and a summary for GitHub Actions."""

from __future__ import annotations

import io
import json
import math
import textwrap
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .cells import MISSING, number
from .changes import BAD, Change
from .diff import SAME, Diff, Row
from .report import escape_markdown

SCHEMA = 1
LIMIT = 10  # changed memories of each method that are shown
STYLES = {"worse": "bold red", "better": "green", "no worse": "", "cannot tell": "yellow", "not judged": "dim"}
HEADER = ("measure", "old", "new", "difference", "95% interval", "margin", "verdict")
CHANGED = ("memory", "seed", "what", "old", "new", "attack")


def print_diff(diff: Diff, console: Console, limit: int | None = LIMIT) -> None:
    """Print the table, the memories that changed (at most `limit` of each method; None for all) and what else differs."""
    for old, new in diff.pairs:
        console.print(Text(_title(diff, old, new), style="bold"))
        console.print(_table(HEADER, [(_cells(r), STYLES[r.verdict]) for r in diff.rows if r.method == new], 1))
        mine = [c for c in diff.changes if c.method == new]
        if shown := mine[:limit]:
            console.print(_table(CHANGED, [(_changed(c), "") for c in shown], 3))
        if mine:
            more = f" ({len(mine) - len(shown)} more: --all)" if len(shown) < len(mine) else ""
            console.print(Text(_tally(mine) + more, style="dim"))
        console.print()
    for line in (_explained(diff), *(f"Differs, {note}" for note in diff.notes), verdict(diff)):
        for part in textwrap.wrap(line, min(console.width, 100), subsequent_indent="  ", break_on_hyphens=False):
            console.print(Text(part), soft_wrap=True)


def text(diff: Diff, limit: int | None = LIMIT, width: int = 100) -> str:
    """The same as plain text."""
    out = io.StringIO()
    print_diff(diff, Console(file=out, width=width, color_system=None), limit)
    return out.getvalue()


def as_json(diff: Diff) -> str:
    """All of it as one JSON object, schema 1; null is not measured."""
    rows = [asdict(r) | {"unit": r.unit} for r in diff.rows]
    found = {
        "schema": SCHEMA,
        "suite": diff.suite,
        "exit": diff.exit,
        "seeds": diff.seeds,
        "compared": diff.pairs,
        "rows": rows,
        "changes": [asdict(c) for c in diff.changes],
        "notes": diff.notes,
    }
    return json.dumps(_finite(found), indent=1, allow_nan=False)


def workflow_commands(diff: Diff) -> list[str]:
    """Workflow commands: an error for each row that is worse, a warning for those that nothing can be told of, notices for what differs."""
    found = [f"::error title={_property(f'palimpsest: {r.method} is worse')}::{_data(_sentence(r))}" for r in diff.worse]
    if unsure := [f"{r.method} {r.measure}" for r in diff.rows if r.verdict == "cannot tell"]:
        found.append(f"::warning title=palimpsest%3A cannot tell::{_data(', '.join(unsure))}: the interval reaches beyond the margin")
    return found + [f"::notice title=palimpsest%3A the runs differ::{_data(note)}" for note in diff.notes]


def summary(diff: Diff, limit: int | None = LIMIT) -> str:
    """Markdown for a step's summary."""
    parts = [f"## palimpsest diff: {escape_markdown(diff.suite)}", escape_markdown(verdict(diff))]
    for old, new in diff.pairs:
        parts.append(f"### {escape_markdown(_title(diff, old, new))}")
        parts.append(_markdown(HEADER, [_cells(r) for r in diff.rows if r.method == new]))
        mine = [c for c in diff.changes if c.method == new]
        parts += [_markdown(CHANGED, [_changed(c) for c in mine[:limit]]), f"{_tally(mine)}."] if mine else []
    return "\n\n".join([*parts, *(f"* {escape_markdown(note)}" for note in diff.notes)]) + "\n"


def verdict(diff: Diff) -> str:
    """One sentence."""
    if diff.worse:
        return f"Worse: {', '.join(f'{r.method} {r.measure}' for r in diff.worse)}."
    unsure = sum(r.verdict == "cannot tell" for r in diff.rows)
    return "Nothing is significantly worse" + (f"; of {unsure} of {len(diff.rows)} rows it cannot be told." if unsure else ".")


def _explained(diff: Diff) -> str:
    return (
        f"Suite {diff.suite}, seeds {', '.join(map(str, diff.seeds))}. Differences are new minus old on the same memories; less is "
        "better in every measure. Worse: the interval lies wholly beyond the margin, after Holm over all rows. Better: wholly below "
        "0. No worse: it ends within the margin."
    )


def _sentence(r: Row) -> str:
    return f"{r.measure}: {_amount(r.old)} → {_amount(r.new)}, {_cells(r)[3]} {_cells(r)[4]} {r.unit}, margin {number(r.margin)}{_why(r)}"


def _cells(r: Row) -> tuple[str, ...]:
    d = r.difference
    interval = f"[{number(d.low)}, {number(d.high)}]" if math.isfinite(d.low) and math.isfinite(d.high) else MISSING
    change = f"+{number(d.value)}" if round(d.value, 1) > 0 else number(d.value)
    return f"{r.measure}, {r.unit}", _amount(r.old), _amount(r.new), change, interval, number(r.margin), r.verdict + _why(r)


def _why(r: Row) -> str:
    return f" ({r.why})" if r.why and r.why != SAME else ""


def _title(diff: Diff, old: str, new: str) -> str:
    same = any(r.method == new and r.why == SAME for r in diff.rows)
    return (new if old == new else f"{old} → {new}") + (f": {SAME}" if same else "")


def _changed(c: Change) -> tuple[str, ...]:
    return c.memory, str(c.seed), c.kind, str(c.old), str(c.new), f"{c.attack}, {c.access}" if c.access else c.attack


def _tally(found: list[Change]) -> str:
    kinds = [k for k in ("came back", "went", "lost", "kept again") if any(c.kind == k for c in found)]
    return ", ".join(f"{sum(c.kind == k for c in found)} {k}" for k in sorted(kinds, key=lambda k: k not in BAD))


def _amount(x: float) -> str:
    """Costs are large: 2.0T, 12.5k."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(x) >= size:
            return number(x / (1e3 if letter == "k" else size)) + letter
    return number(x)


def _table(header: Iterable[str], rows: list[tuple[tuple[str, ...], str]], left: int) -> Table:
    """The first columns and the last are texts, the others numbers."""
    header = tuple(header)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for i, title in enumerate(header):
        table.add_column(title, justify="left" if i < left or i == len(header) - 1 else "right", overflow="fold")
    for cells, style in rows:
        table.add_row(*map(Text, cells), style=style)
    return table


def _markdown(header: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [tuple(header), tuple("---" for _ in header)]
    lines += [tuple(escape_markdown(c) for c in row) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _data(words: str) -> str:
    """As workflow commands want messages."""
    return words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(words: str) -> str:
    return _data(words).replace(":", "%3A").replace(",", "%2C")
