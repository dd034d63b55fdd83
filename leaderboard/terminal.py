"""The main table on a terminal: the columns that fit, every number whole, and below it what the words mean."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from ..benchmark.common.types import Results
from .cells import Cell
from .grids import main_caption, main_columns, main_definitions
from .headline import nothing_learnt
from .tables import MainTable, main_table
from .units import UNITS

WIDTH = 80  # characters, which every terminal has
NAME = "Method"
LENGTHS = tuple(f"{what} {unit.name}" for what in ("Worst", "Excess") for unit in UNITS)
SHOWN = (NAME, "Exact %", *LENGTHS, "Leak %", "Damage %", "Keeps %")  # the files of the report have the others too
INDENT = "  "


@dataclass(frozen=True)
class _Row:
    cells: list[Cell]
    style: str

    @property
    def name(self) -> list[str]:
        return [part for part in (self.cells[0].text, self.cells[0].interval) if part]


def print_table(results: Results, console: Console) -> None:
    """Print the main table with its explanation and the run's warnings below, at most 80 characters wide."""
    table, width = main_table(results), min(console.width, WIDTH)
    if not table.notes.learnt:
        _say(console, nothing_learnt(table), width, "yellow")
    for line in (Text(results.suite), Text(), *table_lines(table, width), Text()):
        console.print(line, soft_wrap=True)  # never cut: a terminal that is too narrow for a line shows it on two
    _say(console, main_caption(table), width)
    for word, text in main_definitions(table).items():
        if any(title.startswith(word) for title in SHOWN):
            _say(console, f"{word}: {text}", width)
    hidden = ", ".join(title for title in main_columns(table) if title not in SHOWN)
    _say(console, f"The files of the report have more columns ({hidden}), more tables, and figures.", width)
    for warning in results.warnings:
        _say(console, f"Warning: {warning}", width, "yellow")


def _say(console: Console, text: str, width: int, style: str = "dim") -> None:
    for line in textwrap.wrap(text, width, subsequent_indent=INDENT, break_on_hyphens=False, break_long_words=False):
        console.print(Text(line, style=style), soft_wrap=True)


def table_lines(table: MainTable, width: int) -> list[Text]:
    """Titles, a rule, then two lines a method: values, and intervals. A name that is too long stands above them."""
    columns = {title: read for title, read in main_columns(table, seeds=False).items() if title in SHOWN}
    rows = [_Row([read(row) for read in columns.values()], "bold" if row.standing else "dim" if row.aside else "") for row in table.rows]
    titles = [title.split() for title in columns]
    widths = [max(len(part) for part in (*title, *_parts(rows, i))) for i, title in enumerate(titles)]
    room = width - sum(widths[1:]) - len(widths) + 1  # for names, with one space between columns
    fits = [len(part) for part in (NAME, *_parts(rows, 0)) if len(part) <= room]
    first = max(fits) if room >= len(NAME) else 0  # on a narrow terminal all names stand above
    gap = 2 if first + sum(widths[1:]) + 2 * len(widths[1:]) <= width else 1

    def line(name: str, parts: list[str], style: str = "") -> Text:
        numbers = "".join(" " * gap + part.rjust(w) for part, w in zip(parts, widths[1:], strict=True))
        return Text(f"{name:{first}}{numbers}".rstrip(), style=style)

    found = [line("", [t[0] for t in titles[1:]]), line(NAME if first else "", [t[1] for t in titles[1:]])]
    found.append(Text("─" * (first + sum(widths[1:]) + gap * len(widths[1:])), style="dim"))
    for row in rows:
        above = any(len(part) > first for part in row.name)
        found += [Text(part, style=row.style) for part in row.name if above]
        left = ["", ""] if above else [*row.name, ""]
        found.append(line(left[0], [c.text for c in row.cells[1:]], row.style))
        found.append(line(left[1], [c.interval for c in row.cells[1:]], "dim"))
    return found


def _parts(rows: list[_Row], column: int) -> list[str]:
    return [part for row in rows for part in (row.cells[column].text, row.cells[column].interval)]
