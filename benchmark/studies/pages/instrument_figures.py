"""The two figures of the study `instrument`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from ....leaderboard.drawing import COLOURS, FAINT, STYLE, WIDTH, svg
from ....leaderboard.statistics import wilson
from .._judging import Told


def auc_figure(measures: Sequence[Told]) -> tuple[str, str]:
    """A line per measure: AUC over models and over memories, with intervals. The SVG, and the caption."""
    with rc_context({**STYLE, "font.size": 8}):
        figure = Figure(figsize=(WIDTH, 0.17 * len(measures) + 0.9), layout="constrained")
        axes = figure.subplots()
        marks = (("over models", COLOURS[0], "o", 0.14), ("over memories", COLOURS[1], "s", -0.14))
        for name, colour, mark, shift in marks:
            found = [(i, t.models if name == "over models" else t.memories) for i, t in enumerate(reversed(measures))]
            for i, e in found:
                if e:
                    axes.plot([e.low, e.high], [i + shift] * 2, color=colour, lw=0.9, alpha=0.7)
            axes.plot([e.value for _, e in found if e], [i + shift for i, e in found if e], mark, color=colour, ms=3.2, label=name)
        axes.axvline(0.5, color=FAINT, lw=0.6, ls=":")
        axes.set(yticks=range(len(measures)), ylim=(-0.7, len(measures) - 0.3), xlabel="AUC")
        axes.set_yticklabels(
            [("▸ " if t.measure.startswith(("leak", "excess")) else "") + t.measure for t in reversed(measures)], fontsize=7
        )
        axes.set_xlim(right=1.01)
        figure.legend(loc="outside upper left", ncols=2, fontsize=8)
        drawn = svg(figure, "aucs", "How well each measure tells models that hold the texts from models that never did")
    caption = "How well each measure tells models that hold the texts from models that never did, with 95% intervals; ▸ is our score."
    return drawn, caption


def coverage_figure(lines: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Share of worlds in which the interval of leak holds the truth, against the true leak."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
        axes = figure.subplots()
        kinds = list(dict.fromkeys((line["lengths"], line["spread of seeds, points"] > 0) for line in lines))
        for i, (source, spread) in enumerate(kinds):
            mine = [x for x in lines if (x["lengths"], x["spread of seeds, points"] > 0) == (source, spread)]
            held = [x["interval holds the truth, %"] for x in mine]
            ends = [wilson(h / 100 * x["worlds"], x["worlds"]) for h, x in zip(held, mine, strict=True)]
            errors = [[h - 100 * low, 100 * high - h] for h, (low, high) in zip(held, ends, strict=True)]
            label = f"{source}, seeds {'differ' if spread else 'alike'}"
            where = [x["true leak, %"] + 0.6 * (i - 1) for x in mine]
            axes.errorbar(where, held, np.abs(errors).T, fmt="osD^"[i % 4], color=COLOURS[i % len(COLOURS)], ms=4, lw=0.9, label=label)
        axes.axhline(95, color=FAINT, lw=0.8, ls=":")
        axes.set(
            xlabel="true leak, %",
            ylabel="interval holds it, %",
            ylim=(min(75, *(x["interval holds the truth, %"] - 5 for x in lines)), 102),
        )
        figure.legend(loc="outside upper left", ncols=2, fontsize=8)
        drawn = svg(figure, "coverage", "How often the 95% interval of leak holds the truth")
    return drawn, "How often the 95% interval of leak over three seeds holds the true leak (dotted: what is promised)."
