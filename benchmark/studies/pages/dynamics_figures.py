"""The figures of the study `dynamics`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy import stats

from ....leaderboard.drawing import COLOURS, FAINT, STYLE, WIDTH, svg
from ....leaderboard.study_results import StudyFigure
from .._geometry import CLASSES
from .._scores import Scores

MARKS = "osD^v<>p"
LEAST = 3  # texts of which a band is drawn


def score_figure(scores: Scores, models: Sequence[str]) -> StudyFigure:
    lines = []
    with rc_context(STYLE):
        fig = Figure(figsize=(WIDTH, 2.5), layout="constrained")
        panels = fig.subplots(1, 2, sharey=True)
        for axes, name in zip(panels, ("context", "continuation"), strict=True):
            values = sorted(set(scores.rows[name]))
            for i, model in enumerate(models):
                for role, style in (("forget", "-"), ("unseen", ":")):
                    found = [scores.whole(model, role, *((v, 0) if name == "context" else (0, v))).scaled(100) for v in values]
                    label = model if role == "forget" and name == "context" else None
                    colour = COLOURS[i % len(COLOURS)]
                    axes.plot(
                        values, [e.value for e in found], style, marker=MARKS[i % len(MARKS)], ms=3.5, lw=1.1, color=colour, label=label
                    )
                    if role == "forget":
                        for v, e in zip(values, found, strict=True):
                            axes.plot([v, v], [e.low, e.high], color=colour, lw=0.8, alpha=0.6)
                    lines += [
                        {"model": model, "texts": role, name: v}
                        | {"score 1, %": _known(e.value), "from": _known(e.low), "to": _known(e.high)}
                        for v, e in zip(values, found, strict=True)
                    ]
            axes.set(xlabel=f"{name}, tokens", xticks=values)
        panels[0].set(ylabel="texts with score 1, %", ylim=(-3, 103))
        fig.legend(loc="outside upper left", ncols=2, fontsize=8)
        drawn = svg(fig, "scores", "Share of fully memorised texts by context and by continuation, a line per model")
    caption = (
        "Fully memorised texts by context and continuation, with 95% intervals over seeds (of one seed over its texts); dotted: "
        "texts that were never injected."
    )
    return StudyFigure("scores", drawn, caption, lines)


def boundary_figure(edges: pd.DataFrame, model: str, usual: int) -> StudyFigure:
    lines = []
    with rc_context(STYLE):
        fig = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        for axes, name, label in zip(
            fig.subplots(2, 1, sharex=True), ("entropy", "1-gram"), ("entropy, nats", "log(1 + count)"), strict=True
        ):
            for i, kind in enumerate(CLASSES):
                values = [*edges[(edges.model == model) & (edges["class"] == kind)][name]]
                if values:
                    middle = np.mean(values, 0)
                    error = np.full(len(middle), np.nan)
                    if len(values) >= LEAST:
                        error = np.std(values, 0, ddof=1) / math.sqrt(len(values)) * stats.t.ppf(0.975, len(values) - 1)
                    x = np.arange(1, len(middle) + 1)
                    axes.plot(
                        x,
                        middle,
                        color=COLOURS[i],
                        marker=MARKS[i],
                        ms=3,
                        markevery=8,
                        lw=1.1,
                        label=f"{kind} ({len(values)})" if name == "entropy" else None,
                    )
                    axes.fill_between(x, middle - error, middle + error, color=COLOURS[i], alpha=0.15, lw=0)
                    lines += [
                        {"texts": kind, "quantity": name, "index": int(k), "value": float(v), "from": _known(v - e), "to": _known(v + e)}
                        for k, v, e in zip(x, middle, error, strict=True)
                    ]
            axes.axvline(usual - 0.5, color=FAINT, lw=0.8, ls=":")
            axes.set(ylabel=label)
        axes.set(xlabel="token (dotted: the boundary)")
        fig.legend(loc="outside upper left", ncols=3, fontsize=8)
        drawn = svg(fig, "boundary", "Entropy and token frequency around the boundary by class of text")
    return StudyFigure(
        "boundary",
        drawn,
        f"Around the boundary, on {model}: means over texts (how many), with 95% bands from three texts on (Student's t).",
        lines,
    )


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
