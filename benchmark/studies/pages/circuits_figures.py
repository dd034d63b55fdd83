"""Figures of the study `circuits`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from ....leaderboard.drawing import COLOURS, FAINT, STYLE, WIDTH, short, svg
from ....leaderboard.study_results import StudyFigure

Rows = Sequence[Mapping[str, Any]]
LOOK = {"maintenance": (COLOURS[0], "o"), "initiation": (COLOURS[1], "s"), "trigger": (COLOURS[2], "^"), "inside": (COLOURS[3], "D")}


def sizes_figure(sizes: Rows, enough: float) -> StudyFigure | None:
    """Faithfulness by edge count, a thin line for each seed and their mean."""
    if not sizes:
        return None
    told = [{k: r[k] for k in ("seed", "task", "edges", "faithful")} for r in sizes]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        axes = figure.subplots()
        for task in dict.fromkeys(r["task"] for r in told):
            mine, (colour, mark) = [r for r in told if r["task"] == task], LOOK[task]
            for seed in sorted({r["seed"] for r in mine}):
                line = [(r["edges"], r["faithful"]) for r in mine if r["seed"] == seed]
                axes.plot(*zip(*line, strict=True), color=colour, lw=0.5, alpha=0.6)
            edges = sorted({r["edges"] for r in mine})
            means = [np.mean([r["faithful"] for r in mine if r["edges"] == n]) for n in edges]
            axes.plot(edges, means, color=colour, lw=1.2, marker=mark, ms=3, label=task)
        axes.axhline(enough, color=FAINT, lw=0.8)
        axes.set(xscale="log", xlabel="edges in the circuit", ylabel="faithfulness", ylim=(-0.5, 1.5))
        axes.minorticks_off()
        most = max(r["edges"] for r in told)
        axes.xaxis.set_major_locator(FixedLocator([a * 10**b for b in range(len(str(most))) for a in (1, 3) if a * 10**b <= most]))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.legend(fontsize=8)
        drawn = svg(figure, "circuits-sizes", "Faithfulness by number of edges")
    caption = (
        f"Faithfulness (denoising) on the split for choosing, by number of edges; thin: one seed. Grey: "
        f"the bar of {enough:g}. Cut at -0.5 and 1.5."
    )
    return StudyFigure("sizes", drawn, caption, told)


def checked_figure(exact: Rows) -> StudyFigure | None:
    """Scores against exact patching."""
    if not exact:
        return None
    told = [{k: r[k] for k in ("seed", "task", "edge", "score", "exact")} for r in exact]
    most = max(max(abs(r["score"]), abs(r["exact"])) for r in told) or 1.0
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
        axes = figure.subplots()
        axes.plot([-most, most], [-most, most], color=FAINT, lw=0.8)
        for task in dict.fromkeys(r["task"] for r in told):
            mine, (colour, mark) = [r for r in told if r["task"] == task], LOOK[task]
            axes.plot(
                [r["exact"] for r in mine], [r["score"] for r in mine], ls="", marker=mark, ms=3.5, mfc="none", mec=colour, label=task
            )
        for setter in (axes.set_xscale, axes.set_yscale):
            setter("symlog", linthresh=most / 100)
        ticks = [-most, -most / 10, 0, most / 10, most]
        names = [f"{t:.2g}" for t in ticks]
        axes.set(xlabel="exact change of the metric, logits", ylabel="score, logits", xticks=ticks, yticks=ticks)
        axes.set(xticklabels=names, yticklabels=names)
        axes.minorticks_off()
        axes.legend(fontsize=8)
        drawn = svg(figure, "circuits-exact", "Attribution scores against exact edge patching")
    caption = (
        "Integrated-gradient score of each edge against what the metric changes by when that edge alone "
        "carries the corrupt run; scales are logarithmic."
    )
    return StudyFigure("exact", drawn, caption, told)


def unlearned_figure(retained: Rows) -> StudyFigure | None:
    """What is left of trigger and circuit in each unlearned model."""
    if not retained:
        return None
    parts = ("trigger", "inside", "maintenance", "initiation")
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.2 + 0.55 * len(retained)), layout="constrained")
        axes = figure.subplots()
        for i, what in enumerate(parts):
            mine = [(n, r) for n, r in enumerate(retained) if r[what] is not None]
            colour, mark = LOOK[what]
            x = np.array([r[what] for _, r in mine])
            low, high = (np.array([r[what] if r[f"{what} {w}"] is None else r[f"{what} {w}"] for _, r in mine]) for w in ("low", "high"))
            y = np.array([n for n, _ in mine]) + 0.18 * (i - 1.5)
            error = [np.maximum(0, x - low), np.maximum(0, high - x)] if mine else None
            axes.errorbar(x, y, xerr=error, color=colour, marker=mark, ms=4, ls="", elinewidth=0.8, label=what)
        for at in (0, 1):
            axes.axvline(at, color=FAINT, lw=0.8)
        axes.set(xlabel="share retained (0: twin, 1: held model)", yticks=range(len(retained)))
        axes.set_yticklabels([short(r["model"]) for r in retained])
        axes.set(xlim=(-0.6, 1.6), ylim=(len(retained) - 0.5, -0.5))
        figure.legend(loc="outside upper center", ncols=4, fontsize=7, columnspacing=0.8, handletextpad=0.2)
        drawn = svg(figure, "circuits-unlearned", "Shares retained of trigger and circuits by unlearned models")
    caption = (
        "What unlearned models keep of the trigger (from the opening), of the text inside, and of the "
        "differences that the circuits carry. Cut at -0.6 and 1.6."
    )
    return StudyFigure("unlearned", drawn, caption, retained)
