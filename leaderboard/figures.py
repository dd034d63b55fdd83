"""Which figures a report has, what stands below each, and the same as files that stand alone."""

from __future__ import annotations

from dataclasses import dataclass

from ..benchmark.common.types import Results
from .operating_curves import BUDGETS, UNITS, Cost
from .tables import MainTable

ALONE = {"currentColor": "#1d1c1a", "var(--faint)": "#8b8780"}  # a file has no page to take its ink from
PAPER = "background: #fdfcf9"


@dataclass(frozen=True)
class Figure:
    """An <svg> element that takes its colours from the page around it."""

    name: str
    caption: str
    svg: str

    @property
    def file(self) -> str:
        """The text of an SVG file, with ink and paper of its own."""
        svg = self.svg.replace("<svg ", f'<svg style="{PAPER}" ', 1)
        for of_page, own in ALONE.items():
            svg = svg.replace(of_page, own)
        return f'<?xml version="1.0" encoding="utf-8"?>\n{svg}'


def figures(results: Results, table: MainTable) -> list[Figure]:
    """Every figure for which something was measured, in the order of the report."""
    from . import operating_plots, plots  # matplotlib takes half a second, and the terminal table does not need it

    quality = (
        "What forgetting costs against what still comes back, with 95% intervals; the lower left is best. Diamonds are references; "
        "grey dots have collapsed or are over budget; shaded is the region of collapse."
    )
    curves = (
        f"Share of forget memories of which at least x {table.unit.long} come back, by attack (where there are many, by access level). "
        "Grey: the twin under its best attack."
    )
    training = (
        "What methods with a stopping rule saw while they trained, a line per seed: the share of forget memories that the exact opening "
        "brought back whole, and the loss on held-out text in nats per token. A dot is the last look."
    )
    if results.points:  # a panel for every row would fill a book
        found = [Figure(f"operating-{kind}", _operating(kind), operating_plots.operating_figure(results, table, kind)) for kind in BUDGETS]
        return [figure for figure in found if figure.svg]
    found = [Figure("quality", quality, plots.quality_figure(table)), Figure("curves", curves, plots.curves_figure(results, table))]
    for attack, (name, svg) in plots.prompt_length_figures(results, table).items():
        found.append(Figure(name, f"The same for {attack}, by the length of the prompt in tokens. Grey: the twin.", svg))
    found.append(Figure("training", training, plots.training_figure(results)))
    return [figure for figure in found if figure.svg]


def _operating(kind: Cost) -> str:
    budgets = ", ".join(f"{b:g}" for b in BUDGETS[kind])
    return (
        f"Operating curves: what comes back against {kind}, with 95% intervals; the lower left is best. Marks grow with the strength. "
        "Filled ones are on the method's frontier: no other of its strengths is better in both. Dotted lines are the budgets "
        f"({budgets}{UNITS[kind]}). Diamonds: the held model (none) and the one that was retrained."
    )
