"""What a study found, as plain data: tables, figures with the numbers behind them, and verdicts on published directions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from ..benchmark.common.limits import one_of
from .statistics import Estimate

AGREES, DISAGREES, CANNOT_TELL = SAYS = ("agrees", "disagrees", "cannot tell")
OURS = "Ours: "  # before what no paper says
OF_OURS = {AGREES: "holds", DISAGREES: "does not hold"}


@dataclass(frozen=True)
class Verdict:
    """One published statement beside what this run measured of it."""

    claim: str  # one line, as short as the statement allows
    published: str  # direction and numbers of the paper; OURS before a statement of our own
    measured: str  # the same quantity here, with its interval
    says: Annotated[str, one_of(*SAYS)]

    @property
    def word(self) -> str:
        """What the run says, as pages put it: with a statement of our own nothing published can agree."""
        return OF_OURS.get(self.says, self.says) if self.published.startswith(OURS) else self.says


@dataclass(frozen=True)
class StudyTable:
    """Rows of plain values under one title; a column that a row lacks stays empty."""

    title: str
    rows: Sequence[Mapping[str, Any]]
    caption: str = ""

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row))


@dataclass(frozen=True)
class StudyFigure:
    """A drawing (an `<svg>` element of `drawing.svg`) and the numbers it shows."""

    name: str
    svg: str = field(repr=False)
    caption: str
    rows: Sequence[Mapping[str, Any]] = field(repr=False)


@dataclass(frozen=True)
class Found:
    """All that a study shows."""

    verdicts: Sequence[Verdict]
    tables: Sequence[StudyTable]
    figures: Sequence[StudyFigure] = ()
    notes: Sequence[str] = ()  # what it does otherwise than the paper, and what it cannot show


def direction(
    claim: str, published: str, measured: Estimate, *, unit: str = "", above: float | None = None, below: float | None = None
) -> Verdict:
    """A verdict on one number: agrees if the whole interval lies on the published side, disagrees if on the other."""
    if (above is None) == (below is None):
        raise ValueError("say either above or below")
    words = said(measured, unit)
    if not measured or not math.isfinite(measured.low) or not math.isfinite(measured.high):
        return Verdict(claim, published, words, CANNOT_TELL)
    border, sign = (above, 1) if above is not None else (below, -1)
    assert border is not None
    low, high = sorted((sign * (measured.low - border), sign * (measured.high - border)))
    return Verdict(claim, published, words, AGREES if low > 0 else DISAGREES if high < 0 else CANNOT_TELL)


def said(measured: Estimate, unit: str = "") -> str:
    """An estimate in words: value, unit and interval."""
    if not measured:
        return "not measured"
    value = f"{measured.value:.3g}{f' {unit}' if unit else ''}"
    if not (math.isfinite(measured.low) and math.isfinite(measured.high)):
        return f"{value} ({f'{len(measured.by_seed)} seeds' if len(measured.by_seed) > 1 else 'one value'}, no interval)"
    return f"{value} [{measured.low:.3g}, {measured.high:.3g}]"
