"""How figures look: ink, type and colours, names that cover nothing, and the SVG text that takes its ink from the page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import Bbox

matplotlib.use("Agg")
INK, FAINT = "#1b1b1d", "#8b8b8f"  # replaced by the page's own colours
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6dba", "#a0522d")  # Okabe and Ito, and two more
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with dollar signs is no formula
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
}
WIDTH = 4.2  # inches: as wide as a phone, type is still 9 pixels high; on a large page the same figure is shown larger
HARD = 40.0  # % damage beyond which the axis turns logarithmic, so that one collapsed method does not squash the rest
LONGEST = 22  # characters of a name in a figure


def label_points(figure: Figure, axes: Axes, points: list[tuple[float, float, str]]) -> None:
    """Write each name beside its point, at the first place where it covers no point and no earlier name."""
    figure.draw_without_rendering()  # settles the layout, so that sizes on the page are known
    dots = axes.transData.transform([(x, y) for x, y, _ in points])
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in dots]
    for x, y, name in points:
        text = axes.annotate(name, (x, y), (0, 0), textcoords="offset points", fontsize=8, va="center")
        text.set_in_layout(False)  # a name makes no room for itself: the points would move under the names placed before
        for dx, dy in [(7, s * step) for step in (6, 16, 26, 36, 46, 56, 66) for s in (1, -1)]:
            text.set(position=(dx, dy), ha="left")
            if text.get_window_extent().x1 > figure.bbox.x1:
                text.set(position=(-dx, dy), ha="right")
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(text.get_window_extent())


def damage_axis(axes: Axes, values: list[float], ticks: Sequence[float] = (-10, -5, 0, 5, 10, 20, 50, 100, 200, 500, 1000)) -> None:
    """Logarithmic beyond ten where one collapsed method would squash the rest."""
    if max(abs(v) for v in values if math.isfinite(v)) > HARD:
        axes.set_xscale("symlog", linthresh=10)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter("{x:.0f}")


def short(name: str) -> str:
    """The name of a method; of one from a file, the class."""
    name = " ".join(name.rsplit(":", 1)[-1].split())
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an <svg> element; ids carry `name`, so that several can stand in one page."""
    out = io.StringIO()
    with rc_context({"svg.hashsalt": name}):  # the same bytes on every run
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\1{name}-", text)
    text = text.replace(INK, "currentColor").replace(FAINT, "var(--faint)")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
