"""The figures of the board, drawn from entries: SVG text with the ink and colours of the page, the same bytes for the same entry."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...benchmark.common.budget import Budget
from ...benchmark.common.types import HORIZON
from ...benchmark.scoring.score import strength
from ..curves import survival
from ..drawing import COLOURS, FAINT, STYLE, WIDTH, damage_axis, label_points, short, svg
from ..entry import Entry, Evaluation
from ..entry_values import Number, Relearned
from ..operating_curves import BUDGETS, UNITS, Cost, Curve
from ..operating_plots import budget_lines, operating_line
from .ranking import REFERENCES, Ranking, believed, twin, why_over, worst

BLUE, RED, GREEN, PINK = COLOURS[:4]
SERIES = {BLUE: "var(--blue)", RED: "var(--red)", GREEN: "var(--green)", PINK: "var(--pink)"}  # the page has a tone for light and for dark
BY_LEVEL = {"black-box": BLUE, "grey-box": GREEN, "white-box": PINK, "weights": RED}
DASHES = {"black-box": "-", "grey-box": "--", "white-box": "-.", "weights": ":"}  # so that colour is not all that tells lines apart
LEAST = 0.16  # inches: height of a bar with its name


def _drawn(draw: Callable[..., Figure | None]) -> Callable[..., str]:
    """Makes of a function that draws one that returns SVG text: empty where there was nothing to draw."""
    name = draw.__name__

    @wraps(draw)
    def drawn(*given: Any) -> str:
        with rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # names may be of any script; the browser has its own fonts
            figure = draw(*given)
            if figure is None:
                return ""
            text = svg(figure, name, (draw.__doc__ or "").partition("\n")[0])
        for colour, own in SERIES.items():
            text = text.replace(colour, own)
        return text

    return drawn


@_drawn
def operating(curve: Curve, back: str) -> Figure | None:
    """Operating curve: what comes back against collateral and against damage, a mark for each strength, with 95% intervals."""
    kinds: list[Cost] = [kind for kind in BUDGETS if any(s.placed(kind) for s in curve.settings)]
    if not kinds:
        return None
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
    grid = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(grid, kinds, strict=True):
        budget_lines(axes, kind)
        axes.axhline(0, color=FAINT, lw=0.6, ls=":")
        operating_line(axes, curve, kind, BLUE, "o", True)
        if kind == "damage":
            damage_axis(axes, [s.damage.value for s in curve.settings], (-10, 0, 5, 10, 30, 100, 1000))
        axes.set(xlabel=f"{kind}, {UNITS[kind].strip()}")
        axes.margins(0.08)
    grid[0].set(ylabel=back)
    return figure


@_drawn
def relearned(found: Sequence[Relearned]) -> Figure | None:
    """Relearning: what the exact opening brings back after so many steps on other memories, with 95% intervals; grey: the twin."""
    if not found:
        return None
    figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
    axes = figure.subplots()
    for i, t in enumerate(found):
        colour, dash = (BLUE, RED, GREEN, PINK)[i % 4], ("-", "--", "-.", ":")[i % 4]
        twin = [(x.step, x.twin) for x in t.steps]
        _path(axes, twin, FAINT, dash, "twin" if i == 0 else "")
        _path(axes, [(x.step, x.tokens) for x in t.steps], colour, dash, short(f"{t.attack} {t.dose}"))
    axes.set(xlabel="step of relearning", ylabel="matched tokens", ylim=(-1, HORIZON + 1), yticks=(0, 16, 32, 48, HORIZON))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    figure.legend(loc="outside upper left", ncols=3, fontsize=8)
    return figure


def _path(axes: Axes, points: Sequence[tuple[int, Number]], colour: str, dash: str, label: str) -> None:
    known = [(step, x) for step, x in points if x]
    axes.plot(
        [step for step, _ in known], [_or_nan(x.value) for _, x in known], ls=dash, color=colour, lw=1.4, marker="o", ms=3.5, label=label
    )
    for step, x in known:
        if x.low is not None and x.high is not None:
            axes.plot((step, step), (x.low, x.high), color=colour, lw=0.8, alpha=0.6)


@_drawn
def survived(entry: Entry) -> Figure | None:
    """Survival curve: which share of the forget memories comes back for at least x tokens, by access level; grey is the twin."""
    levels = sorted({c.access for c in believed(entry).leaks}, key=strength)
    lengths = {level: worst(entry, level) for level in levels}
    if not any(lengths.values()):
        return None
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
    axes = figure.subplots()
    floor = survival(list(twin(entry, levels[-1]).values()))
    if np.isfinite(floor).any():
        axes.fill_between(range(HORIZON + 1), floor, color=FAINT, alpha=0.35, lw=0, step="mid", label=f"twin, {short(levels[-1])}")
    for level in levels:
        style = {"color": BY_LEVEL.get(level, RED), "ls": DASHES.get(level, "-"), "lw": 1.5}
        axes.plot(survival(list(lengths[level].values())), label=short(level), **style)
    axes.set(xlim=(0, HORIZON), ylim=(0, 1.03), xticks=(0, 8, 16, 32, 48, HORIZON), yticks=(0, 0.5, 1))
    axes.set(xlabel="matched at least x tokens", ylabel="share of memories")
    figure.legend(loc="outside upper left", ncols=3, fontsize=8)
    return figure


@_drawn
def bars(entry: Entry) -> Figure | None:
    """Bars: mean matched length of each attack in tokens, with 95% intervals; faint ones are diagnostics and count in no leak."""
    cells = [a for a in believed(entry).attacks if a.matched]
    if not cells:
        return None
    cells.sort(key=lambda a: (a.diagnostic, strength(a.access), -(a.matched.value or 0), a.attack))
    figure = Figure(figsize=(WIDTH, 0.9 + LEAST * len(cells)), layout="constrained")
    axes = figure.subplots()
    named: dict[str, Any] = {}
    for i, a in enumerate(cells):
        colour = FAINT if a.diagnostic else BY_LEVEL.get(a.access, RED)
        bar = axes.barh(i, _or_nan(a.matched.value), height=0.7, color=colour, alpha=0.6)
        named.setdefault("diagnostic" if a.diagnostic else short(a.access), bar)
        if a.matched.low is not None and a.matched.high is not None:
            axes.plot((a.matched.low, a.matched.high), (i, i), color=colour, lw=1.2)
    axes.set(xlim=(0, HORIZON), xticks=(0, 8, 16, 32, 48, HORIZON), ylim=(len(cells) - 0.4, -0.6), xlabel="matched tokens")
    axes.set_yticks(range(len(cells)), [short(a.attack) for a in cells], fontsize=8)
    axes.tick_params(axis="y", length=0)
    figure.legend(named.values(), named.keys(), loc="outside upper left", ncols=3, fontsize=8)
    return figure


@_drawn
def trained(looks: Sequence[Evaluation]) -> Figure | None:
    """Trajectory: what the method saw while it trained, a line for each seed: share brought back whole, and loss on other text."""
    if not looks:
        return None
    figure = Figure(figsize=(WIDTH, 2.2), layout="constrained")
    exact, loss = figure.subplots(1, 2)
    for i, seed in enumerate(dict.fromkeys(e.seed for e in looks)):
        seen = sorted((e for e in looks if e.seed == seed), key=lambda e: e.step)
        style = {"color": (BLUE, RED, GREEN, PINK)[i % 4], "ls": ("-", "--", "-.", ":")[i % 4], "lw": 1.3, "marker": "o", "ms": 3}
        exact.plot([e.step for e in seen], [math.nan if e.exact is None else e.exact for e in seen], label=f"seed {seed}", **style)
        loss.plot([e.step for e in seen], [math.nan if e.held_out is None else e.held_out for e in seen], **style)
    exact.set(xlabel="step", ylabel="share whole", ylim=(-0.03, 1.03), yticks=(0, 0.5, 1))
    loss.set(xlabel="step", ylabel="other text, nats")
    for axes in (exact, loss):
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    figure.legend(loc="outside upper left", ncols=4, fontsize=8)
    return figure


@_drawn
def overview(ranking: Ranking, access: str, budget: Budget) -> Figure | None:
    """The track at a glance: what comes back against collateral, a point for each entry with 95% intervals."""
    seen = [(e, believed(e).collateral, y) for e in ranking.entries if (y := ranking.value(e, access)) and believed(e).collateral]
    if not seen:
        return None
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    if budget.collateral < 104:
        axes.axvspan(budget.collateral, 104, color=FAINT, alpha=0.12, lw=0)
    axes.axhline(0, color=FAINT, lw=0.6, ls=":")
    for e, x, y in seen:
        colour = FAINT if e.method in REFERENCES else RED if why_over(believed(e), budget) else BLUE
        mark = "D" if e.method in REFERENCES else "^" if why_over(believed(e), budget) else "o"
        _cross(axes, x, y, colour, mark)
    axes.set(xlabel="collateral, points", ylabel="excess over the twin, tokens", xlim=(-4, 104))
    label_points(figure, axes, [(x.value, y.value, short(e.name)) for e, x, y in seen if x.value is not None and y.value is not None])
    return figure


def _cross(axes: Axes, x: Number, y: Number, colour: str, mark: str) -> None:
    """A point with its intervals both ways."""
    if x.low is not None and x.high is not None:
        axes.plot((x.low, x.high), (_or_nan(y.value),) * 2, color=colour, lw=0.8, alpha=0.6)
    if y.low is not None and y.high is not None:
        axes.plot((_or_nan(x.value),) * 2, (y.low, y.high), color=colour, lw=0.8, alpha=0.6)
    axes.plot(_or_nan(x.value), _or_nan(y.value), mark, color=colour, ms=4.5)


def _or_nan(x: float | None) -> float:
    return math.nan if x is None else x
