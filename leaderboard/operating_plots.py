"""Operating curves as figures: what comes back against what forgetting costs, from the weakest strength of a method to the strongest."""

from __future__ import annotations

import math

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..benchmark.common.types import Results
from .drawing import COLOURS, FAINT, INK, STYLE, WIDTH, damage_axis, short, svg
from .operating_curves import BUDGETS, Cost, Curve, back_words, operating_curves
from .tables import MainTable

MARKS = "osv^PX<>"  # beside the colours, so that no method is told by colour alone
TOGETHER = 6  # methods that are told apart in one panel


def operating_figure(results: Results, table: MainTable, kind: Cost) -> str:
    """What comes back against a cost: a line for each method through its strengths. Many methods: a panel for each, the others in grey."""
    curves = [c for c in operating_curves(results, table) if any(s.placed(kind) for s in c.settings)]
    methods = [c for c in curves if not c.reference]
    if not methods:
        return ""
    together = len(methods) <= TOGETHER
    panels = [methods] if together else [[c] for c in methods]
    columns = min(2, len(panels))
    height = math.ceil(len(panels) / columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.6 if together else 1.5 * height + 0.6), layout="constrained")
        grid = figure.subplots(height, columns, sharex=True, sharey=True, squeeze=False)
        for axes, shown in zip(grid.flat, panels, strict=False):
            budget_lines(axes, kind)
            for c in sorted(curves, key=lambda c: not c.reference):  # references below
                place = shown.index(c) if c in shown else -1
                operating_line(axes, c, kind, COLOURS[place % len(COLOURS)] if place >= 0 else FAINT, MARKS[place % len(MARKS)], place >= 0)
            if kind == "damage":
                damage_axis(axes, [s.damage.value for c in curves for s in c.settings], (-10, 0, 10, 100, 1000))
            if not together:
                axes.set_title(short(shown[0].method), fontsize=9, loc="left")
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        for axes in list(grid.flat)[max(0, len(panels) - columns) : len(panels)]:
            axes.tick_params(labelbottom=True)
        if together:
            figure.legend(loc="outside upper left", ncols=3, fontsize=8)
        figure.supxlabel(
            "collateral, points" if kind == "collateral" else f"damage: {table.notes.damage_of} lost against the twin, %", fontsize=9
        )
        figure.supylabel(back_words(table), fontsize=9)
        return svg(figure, f"operating-{kind}", f"Operating curves: what comes back against {kind}, one line per method")


def budget_lines(axes: Axes, kind: Cost) -> None:
    """A dotted line at each budget of a cost."""
    for budget in BUDGETS[kind]:
        axes.axvline(budget, color=FAINT, lw=0.6, ls=":")


def operating_line(axes: Axes, curve: Curve, kind: Cost, colour: str, mark: str, shown: bool) -> None:
    """One method's strengths, joined from the weakest to the strongest; marks of the frontier are filled; a reference is a diamond."""
    settings = [s for s in curve.settings if s.placed(kind)]
    x, y = [s.cost(kind).value for s in settings], [s.back.value for s in settings]
    axes.plot(x, y, color=colour, lw=1.0 if shown else 0.5, alpha=0.9 if shown else 0.4)
    if not shown and not curve.reference:
        return
    frontier = curve.frontier(kind)
    for i, (s, a, b) in enumerate(zip(settings, x, y, strict=True)):
        cost, size = s.cost(kind), 4 + 1.2 * i if shown else 5
        for x_bar, y_bar in (((cost.low, cost.high), (b, b)), ((a, a), (s.back.low, s.back.high))):
            axes.plot(x_bar, y_bar, color=colour, lw=0.7, alpha=0.45)
        fill = colour if s in frontier else "none"
        label = short(curve.method) if shown and i == len(settings) - 1 else ""
        axes.plot(a, b, mark if shown else "D", color=colour, mfc=fill, ms=size, label=label)
        if curve.reference:
            axes.annotate(short(curve.method), (a, b), (6, 5), textcoords="offset points", fontsize=8, color=INK)
