"""The figures of a report as SVG text that takes its ink from the page, so that it reads in light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from ..benchmark.common.types import Results, TrainingEvaluation
from .curves import attack_curves, prompt_length_curves
from .drawing import COLOURS, FAINT, STYLE, WIDTH, damage_axis, label_points, short, svg
from .flags import COLLAPSED
from .tables import MainTable, MethodRow


def quality_figure(table: MainTable) -> str:
    """Damage against the excess over the twin, with 95% intervals; empty if no method has both."""
    rows = [r for r in table.rows if r.utility.damage and table.ranked(r)]
    if not rows:
        return ""
    with rc_context(STYLE):
        return svg(scatter(table, rows), "quality", "Scatter of damage against what comes back, one point per method")


def scatter(table: MainTable, rows: list[MethodRow]) -> Figure:
    """The same, drawn: a point, two bars and a name for each row."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    damage_axis(axes, [r.utility.damage.value for r in rows])
    axes.axhline(0, color=FAINT, lw=0.6, ls=":")
    axes.axvline(0, color=FAINT, lw=0.6, ls=":")
    points = []
    for row in rows:
        x, y = row.utility.damage, table.ranked(row)
        colour = FAINT if row.aside else COLOURS[0]
        for x_bar, y_bar in (((x.low, x.high), (y.value,) * 2), ((x.value,) * 2, (y.low, y.high))):
            axes.plot(x_bar, y_bar, color=colour, lw=0.9, alpha=0.7)
        axes.plot(x.value, y.value, "o" if not row.reference else "D", color=colour, ms=4.5)
        points.append((x.value, y.value, short(row.method)))
    axes.set(xlabel=f"damage: {table.notes.damage_of} lost against the twin, %", ylabel=f"excess over the twin, {table.unit.long}")
    right = axes.get_xlim()[1]
    if right > COLLAPSED:
        axes.axvspan(COLLAPSED, right, color=FAINT, alpha=0.12, lw=0)
        axes.set_xlim(right=right)
    label_points(figure, axes, points)
    return figure


def curves_figure(results: Results, table: MainTable) -> str:
    """Share of forget memories with at least x tokens matched, by attack: a panel per method, the twin's best attack in grey."""
    panels = {row.method: attack_curves(results, row.method) for row in table.rows}
    twin = attack_curves(results, results.twin) if results.twin else {}
    return _panels(panels, twin, "curves", "Matched-length curves by attack, one panel per method", table)


def prompt_length_figures(results: Results, table: MainTable) -> dict[str, tuple[str, str]]:
    """The same for every attack whose variants are prompt lengths, with a curve per length: attack -> name of the figure, SVG."""
    found = {row.method: prompt_length_curves(results, row.method) for row in table.rows}
    twin = prompt_length_curves(results, results.twin)
    attacks = list(dict.fromkeys(a for curves in found.values() for a in curves))
    return {
        a: (name, _panels({m: c[a] for m, c in found.items() if a in c}, twin.get(a, {}), name, f"Curves of {a}", table))
        for a, name in ((a, f"lengths-{i}") for i, a in enumerate(attacks))
    }


def training_figure(results: Results) -> str:
    """Exact-prefix rate and held-out loss by training step, a colour per method and a line per seed; empty if nothing was evaluated."""
    lines: dict[str, dict[int, list[TrainingEvaluation]]] = {}
    for s in results.evaluations:
        lines.setdefault(s.method, {}).setdefault(s.seed, []).append(s)
    if not lines:
        return ""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
        exact, loss = figure.subplots(1, 2)
        for i, (method, seeds) in enumerate(lines.items()):
            for seed, seen in seeds.items():
                style = {"color": COLOURS[i % len(COLOURS)], "lw": 1.1, "marker": "o", "ms": 4, "markevery": [len(seen) - 1]}
                label = short(method) if seed == min(seeds) else ""
                exact.plot([s.step for s in seen], [s.exact for s in seen], label=label, **style)
                loss.plot([s.step for s in seen], [s.held_out for s in seen], **style)
        exact.set(xlabel="step", ylabel="share brought back whole", ylim=(-0.03, 1.03), yticks=(0, 0.5, 1))
        loss.set(xlabel="step", ylabel="held-out loss, nats per token")
        figure.legend(loc="outside upper left", ncols=3, fontsize=8)
        return svg(figure, "training", "Exact-prefix rate and held-out loss while methods trained")


Curves = Mapping[str, np.ndarray]


def _panels(panels: Mapping[str, Curves], twin: Curves, name: str, label: str, table: MainTable) -> str:
    columns = min(2, len(panels))
    height = math.ceil(len(panels) / columns)
    keys = list(dict.fromkeys(k for curves in panels.values() for k in curves))
    collapsed = {r.method for r in table.rows if r.collapsed}
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.5 * height + 0.9), layout="constrained")
        grid = figure.subplots(height, columns, sharex=True, sharey=True, squeeze=False)
        floor = np.fmax.reduce(list(twin.values())) if twin else np.full(65, np.nan)
        for axes, (method, curves) in zip(grid.flat, panels.items(), strict=False):
            axes.fill_between(range(len(floor)), floor, color=FAINT, alpha=0.35, lw=0, step="mid", label="twin")
            for key, curve in curves.items():
                style = "-" if keys.index(key) < len(COLOURS) else "--"
                thick = 1.1 + 0.6 * max(0, 3 - keys.index(key))  # a later curve that lies on an earlier one leaves its edges to be seen
                axes.plot(curve, style, lw=thick, color=COLOURS[keys.index(key) % len(COLOURS)], label=short(key))
            axes.set_title(short(method) + " (collapsed)" * (method in collapsed), fontsize=9, loc="left")
            axes.set(xlim=(0, 64), ylim=(0, 1.03), xticks=(0, 16, 32, 48, 64), yticks=(0, 0.5, 1))
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        for axes in list(grid.flat)[max(0, len(panels) - columns) : len(panels)]:
            axes.tick_params(labelbottom=True)  # the panel below may be missing
        handles = {t: h for axes in grid.flat for h, t in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=3, fontsize=8)
        figure.supxlabel(f"matched at least x {table.unit.long}", fontsize=9)
        figure.supylabel("share of memories", fontsize=9)
        return svg(figure, name, label)
