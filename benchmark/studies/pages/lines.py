"""Figures of several studies: lines with their intervals in small panels, and the numbers that they show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from ....leaderboard.drawing import COLOURS, INK, STYLE, WIDTH, svg
from ....leaderboard.statistics import Estimate
from ....leaderboard.study_results import StudyFigure

MARKS = "osv^PX<>D*"  # beside the colours, so that no line is told by colour alone
DASHES = ("-", "--", ":", "-.")

Panels = Mapping[str, Mapping[str, Sequence[tuple[float, Estimate]]]]  # title -> name of a line -> its points


@dataclass(frozen=True)
class Axis:
    """What an axis shows, in words with the unit."""

    words: str
    ticks: Sequence[float] = ()
    places: Mapping[float, float] = field(default_factory=dict)  # value -> where it is drawn; else at the value itself

    def at(self, value: float) -> float:
        return self.places.get(value, value)


def line_figure(name: str, caption: str, panels: Panels, x: Axis, y: Axis) -> StudyFigure:
    """One panel for each title, the same line in the same colour, mark and dash everywhere; bars are 95% intervals."""
    lines = list(dict.fromkeys(line for shown in panels.values() for line in shown))
    places = [x.at(v) for shown in panels.values() for points in shown.values() for v, _ in points]
    span = max(places, default=0.0) - min(places, default=0.0)
    columns = min(2, len(panels))
    height = math.ceil(len(panels) / columns)
    with rc_context(STYLE):
        figure = Figure(
            figsize=(WIDTH, (2.9 if len(panels) == 1 else 1.9 * height) + 0.22 * math.ceil(len(lines) / 2)), layout="constrained"
        )
        grid = list(figure.subplots(height, columns, sharex=True, sharey=True, squeeze=False).flat)
        for axes, (title, shown) in zip(grid, panels.items(), strict=False):
            axes.set_title(title, fontsize=9, loc="left")
            for line, points in shown.items():
                i = lines.index(line)
                shift = 0.008 * span * (i - (len(lines) - 1) / 2)  # bars beside each other can be told apart
                at = [x.at(v) + shift for v, _ in points]
                low, high = ([abs(e.value - getattr(e, end)) for _, e in points] for end in ("low", "high"))
                style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKS[i % len(MARKS)], "ls": DASHES[i % len(DASHES)]}
                axes.errorbar(at, [e.value for _, e in points], [low, high], ms=4, lw=1.0, elinewidth=0.7, capsize=1.5, label=line, **style)
            if x.ticks:
                axes.set_xticks([x.at(v) for v in x.ticks], [f"{v:g}" for v in x.ticks], fontsize=8)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes in grid[max(0, len(panels) - columns) : len(panels)]:
            axes.tick_params(labelbottom=True)
        handles, labels = zip(*_entries(grid[: len(panels)], lines), strict=True)
        figure.legend(handles, labels, loc="outside upper left", ncols=2, fontsize=8)
        figure.supxlabel(x.words, fontsize=9, color=INK)
        figure.supylabel(y.words, fontsize=9, color=INK)
        drawn = svg(figure, name, caption)
    return StudyFigure(name, drawn, caption, _numbers(panels, x.words, y.words))


def _entries(grid: Sequence[Any], lines: Sequence[str]) -> list[tuple[Any, str]]:
    """One handle for each line, from whichever panel has it."""
    known = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    return [(known[line], line) for line in lines]


def _numbers(panels: Panels, x: str, y: str) -> list[dict[str, Any]]:
    return [
        {"panel": title, "line": line, x: at, y: e.value, "low": finite(e.low), "high": finite(e.high), "values": e.count}
        for title, shown in panels.items()
        for line, points in shown.items()
        for at, e in points
    ]


def thinned(values: Sequence[float], most: int = 6) -> Sequence[float]:
    """Every value, or every other one where they are many: places for ticks."""
    return values if len(values) <= most else values[::2]


def finite(value: float) -> float | None:
    """The number, or nothing where there is none."""
    return value if math.isfinite(value) else None
