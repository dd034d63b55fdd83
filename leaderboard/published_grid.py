"""The table of other papers' measures on the same models. Formulas: `benchmark/scoring/published.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..benchmark.common.types import HELD, Results
from ..benchmark.scoring.published import MEASURES, Published, Read
from .cells import Cell, Grid, GridRow, cell, known_columns, number, p_value
from .membership import auc, forget_quality, privleak
from .statistics import mean

Reads = Mapping[int, Read]  # seed -> what a model says
CAPTION = (
    "Measures that other papers print, on the same models and texts as above, from what each model says about whole answers (of passages: "
    "the rest of the row). None is calibrated against what a model guesses that never met the text, so read them beside the table above. "
)


def published_grids(results: Results) -> list[Grid]:
    """One table, or none where these measures were not asked for."""
    reads = {m: _of(results, m) for m in dict.fromkeys((HELD, *results.methods, results.twin))}
    reads = {m: found for m, found in reads.items() if found}
    if not reads:
        return []
    twin = reads.get(results.twin, {})
    rows = [
        GridRow([Cell("the twin" if m == results.twin else m), *(_cell(p, found, twin) for p in MEASURES)], faint=m in (HELD, results.twin))
        for m, found in reads.items()
    ]
    header, rows = known_columns(["Method", *(p.title for p in MEASURES)], rows)
    meanings = {p.title: f"{p.says} ({p.direction}; {p.source})." for p in MEASURES if p.title in header}
    return [Grid("published", "Measures of other papers", CAPTION, header, rows, meanings).narrow("Measure")]


def _of(results: Results, method: str) -> Reads:
    seeds = dict.fromkeys(s.seed for s in results.published if s.method == method)
    return {seed: Read([s for s in results.published if (s.method, s.seed) == (method, seed)]) for seed in seeds}


def _cell(measure: Published, mine: Reads, twin: Reads) -> Cell:
    """A measure on one model; a dash where it is about texts that there are none of, or compares with a model that there is not."""
    if measure.name == "model_utility":
        return Cell(number(_average([r.model_utility for r in mine.values()]), 3))
    if measure.name == "forget_quality":
        ratios = [[x for r in reads.values() for x in r.truth_ratios] for reads in (mine, twin)]
        distance, p = forget_quality(*ratios)
        return Cell(number(math.nan)) if math.isnan(p) else Cell(p_value(p), note=f"D {number(distance, 2)}")
    if measure.name == "privleak":
        pairs = [(_outsiders(r), _outsiders(twin[seed])) for seed, r in mine.items() if seed in twin]
        return Cell(number(_average([privleak(a, b) for a, b in pairs])))
    return cell(mean([v for r in mine.values() if len(v := r.values(measure.name))]).within(0, 1), digits=3)


def _outsiders(read: Read) -> float:
    """1 − AUC of passages to forget against never-seen ones, as MUSE has it."""
    return 1 - auc(read.membership("forget"), read.membership("unseen"))


def _average(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan
