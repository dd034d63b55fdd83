"""How last-layer states of classes of texts lie to each other over decoding steps: cosines, distances, and centres in the main plane."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from ....leaderboard.drawing import COLOURS, STYLE, WIDTH, svg
from ....leaderboard.statistics import figure
from ....leaderboard.study_results import StudyFigure
from .._geometry import CLASSES
from .lines import DASHES, finite

OVER = 8  # steps of the running mean that is drawn
MEASURES = {"cosine": "cosine", "distance": "Euclidean distance"}
CENTRE = "centre of "


def geometry_figures(rows: pd.DataFrame, model: str) -> Iterator[StudyFigure]:
    """What the rows of a model hold: pairs of texts by step, and the centres of classes."""
    mine = rows[rows.model == model]
    pairs = mine[mine.get("cosine", pd.Series(np.nan, mine.index)).notna()]
    if len(pairs):
        yield _pairs(pairs, model)
    centres = mine[mine.get("x", pd.Series(np.nan, mine.index)).notna()]
    if len(centres):
        yield _centres(centres[centres.seed == centres.seed.min()], model)


def _pairs(rows: pd.DataFrame, model: str) -> StudyFigure:
    """One panel for pairs within classes and one for pairs between them, so that no panel has more than three lines."""
    told, seeds = _told(rows), rows.seed.nunique()
    groups = {"within a class": list(CLASSES), "between classes": [p for p in dict.fromkeys(rows.pair) if p not in CLASSES]}
    with rc_context(STYLE):
        fig = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        grid = fig.subplots(2, 2, sharex=True, sharey="row")
        for panels, (name, words) in zip(grid, MEASURES.items(), strict=True):
            for axes, (title, pairs) in zip(panels, groups.items(), strict=True):
                for i, pair in enumerate(pairs):
                    line = [t for t in told if t["pair"] == pair]
                    if line:
                        _drawn(axes, line, name, COLOURS[(i + 3 * (title != "within a class")) % len(COLOURS)], DASHES[i % 4], pair)
                if name == "cosine":
                    axes.set_title(title, fontsize=9, loc="left")
            panels[0].set(ylabel=words)
        handles, labels = ([x for axes in grid[0] for x in axes.get_legend_handles_labels()[k]] for k in (0, 1))
        fig.legend(handles, labels, loc="outside upper left", ncols=2, fontsize=7)
        fig.supxlabel("decoding step", fontsize=9)
        drawn = svg(fig, "geometry", "Cosine and distance of last-layer states of pairs of texts by decoding step")
    bands = "bands: 95% intervals over seeds" if seeds > 1 else "no intervals, since rows hold means over pairs of one seed"
    caption = f"Last-layer states of pairs of texts on {model}: mean cosine and distance by decoding step, running means over {OVER} steps "
    return StudyFigure("geometry", drawn, f"{caption}(the numbers are of single steps); {bands}.", told)


def _told(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Means over seeds by pair and step, with intervals where there are several seeds."""
    out = []
    for (pair, _), part in rows.groupby(["pair", "step"], sort=False):  # type: ignore[misc]
        line: dict[str, Any] = {"pair": str(pair), "step": int(part.step.iloc[0])}
        for name in MEASURES:
            e = figure(part[name].tolist())
            line |= {name: e.value, f"{name}: from": finite(e.low), f"{name}: to": finite(e.high)}
        out.append(line)
    return out


def _drawn(axes: Any, line: Sequence[Mapping[str, Any]], name: str, colour: str, dash: str, label: str) -> None:
    """A running mean, with the running means of the ends of intervals where there are any."""
    x = _running([t["step"] for t in line])
    axes.plot(x, _running([t[name] for t in line]), dash, color=colour, lw=1.2, label=label)
    if line[0][f"{name}: from"] is not None:
        low, high = (_running([t[f"{name}: {end}"] for t in line]) for end in ("from", "to"))
        axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def _running(values: Sequence[float]) -> np.ndarray:
    size = min(OVER, len(values))
    return np.convolve(np.asarray(values, float), np.full(size, 1 / size), "valid")


def _centres(rows: pd.DataFrame, model: str) -> StudyFigure:
    """Coordinates of each class's centre over steps, along the two main components of all states of one seed."""
    told = [
        {"class": str(pair).removeprefix(CENTRE), "step": int(step), "first": float(x), "second": float(y), "explained": float(share)}
        for pair, step, x, y, share in zip(rows.pair, rows.step, rows.x, rows.y, rows.explained, strict=True)
    ]
    with rc_context(STYLE):
        fig = Figure(figsize=(WIDTH, 2.4), layout="constrained")
        for axes, name in zip(fig.subplots(1, 2, sharey=True), ("first", "second"), strict=True):
            for i, kind in enumerate(CLASSES):
                if line := [t for t in told if t["class"] == kind]:
                    axes.plot(
                        _running([t["step"] for t in line]), _running([t[name] for t in line]), DASHES[i], color=COLOURS[i], label=kind
                    )
            axes.set(xlabel="decoding step", title=f"{name} main component")
        fig.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3, fontsize=7)
        drawn = svg(fig, "centres", "Centres of the classes of texts along the two main components of last-layer states, by decoding step")
    caption = (
        f"Centres of classes on {model}, seed {rows.seed.min()}, along the two main components of all last-layer states, which have "
        f"{100 * told[0]['explained']:.0f}% of the variance; running means over {OVER} steps (the numbers are of single steps)."
    )
    return StudyFigure("centres", drawn, caption, told)
