"""Cells of tables: value and interval apart, so that every renderer can set them in its own way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from .statistics import Estimate

MISSING = "–"
WIDE = 8  # columns beyond which a table is turned, if that makes it narrower
PHONE, PAGE = 46, 148  # characters of a table that fit across a phone, and across the page on a large screen
SMALL, PADDING = 0.87, 2.6  # of the style sheet: the smaller print, as a share of the larger; space around a cell, in characters


@dataclass(frozen=True)
class Cell:
    """Plain text, not yet escaped for anything."""

    text: str
    interval: str = ""  # the second line: "[low, high]" in the same unit; in the first column, a row's flags
    note: str = ""  # smaller print: the seeds' range
    svg: str = ""  # a small figure that a web page shows above the text

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
    definitions: Mapping[str, str] = field(default_factory=dict)  # word of the header -> what it means

    @property
    def explained(self) -> str:
        """The caption with the definitions, as one paragraph."""
        return " ".join([self.caption, *(f"{word}: {text}" for word, text in self.definitions.items())])

    @property
    def overflows(self) -> str:
        """Where the table is wider than the page and has to be scrolled: "", "phone" or "page"."""
        titles = [max(map(len, title.split()), default=0) for title in self.header]  # titles are broken at spaces, cells are not
        letters = sum(max([title, *(_letters(row.cells[i]) for row in self.rows)]) + PADDING for i, title in enumerate(titles))
        return "page" if letters > PAGE else "phone" if letters > PHONE else ""

    def narrow(self, corner: str) -> Grid:
        """The same table with rows and columns exchanged if it is wide and gets narrower; `corner` names the new first column."""
        if len(self.header) <= max(WIDE, len(self.rows) + 1):
            return self
        columns = [[row.cells[i] for row in self.rows] for i in range(1, len(self.header))]
        rows = [GridRow([Cell(title), *cells]) for title, cells in zip(self.header[1:], columns, strict=True)]
        return replace(self, header=[corner, *(row.cells[0].text for row in self.rows)], rows=rows)


def _letters(x: Cell) -> float:
    return max(len(x.text), SMALL * len(x.interval), SMALL * len(x.note))


def number(x: float, digits: int = 1) -> str:
    """Rounded, with a true minus sign, never "-0.0"; a dash for NaN."""
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    if not math.isfinite(x):
        return MISSING
    return f"{round(x, digits) + 0.0:.{digits}f}".replace("-", "−")


def cell(x: Estimate, factor: float = 1.0, seeds: bool = False, digits: int = 1, note: str = "") -> Cell:
    """Value and interval of an estimate times `factor`, with the range over seeds on request."""
    if not x:
        return Cell(MISSING)
    known = math.isfinite(x.low) and math.isfinite(x.high)
    interval = f"[{number(x.low * factor, digits)}, {number(x.high * factor, digits)}]" if known else ""
    shown = [v * factor for v in x.by_seed]
    if seeds and len(shown) > 1:
        note = f"seeds {number(min(shown), digits)} to {number(max(shown), digits)}"
    return Cell(number(x.value * factor, digits), interval, note)


def p_value(p: float) -> str:
    """ "p .012", "p <.001"; nothing where no test was made."""
    if math.isnan(p):
        return ""
    return "p <.001" if p < 0.001 else f"p {p:.3f}".replace("0.", ".") if p < 1 else "p 1"


def listed(values: Mapping[str, float], digits: int = 1) -> str:
    """ "name 1.0, other 2.0" for captions."""
    return ", ".join(f"{name} {number(x, digits)}" for name, x in values.items())


def known_columns(header: Sequence[str], rows: Sequence[GridRow]) -> tuple[list[str], list[GridRow]]:
    """The table without columns in which nothing was measured; the first column always stays."""
    keep = [i for i in range(len(header)) if i == 0 or any(row.cells[i].text != MISSING for row in rows)]
    return [header[i] for i in keep], [replace(row, cells=[row.cells[i] for i in keep]) for row in rows]
