"""The table of other papers' measures on the same models. Formulas: `benchmark/scoring/published.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..benchmark.common.types import HELD, Results
from ..benchmark.scoring.published import EITHER, MEASURES, Part, Published, Ratio, Read, truth_ratio, truth_ratio_of_code
from .cells import Cell, Grid, GridRow, cell, known_columns, number, p_value
from .membership import auc, forget_quality, privleak
from .statistics import Estimate, mean, rate

SMALL = 1e-3  # p-values below it are shown by their exponent
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
    both = any(r.both for found in reads.values() for r in found.values())
    columns: dict[str, tuple[Published, Part]] = {title: (p, part) for p in MEASURES for title, part in _columns(p, both)}
    rows = [
        GridRow(
            [Cell("the twin" if m == results.twin else m), *(_cell(p, part, found, twin) for p, part in columns.values())],
            faint=m in (HELD, results.twin),
        )
        for m, found in reads.items()
    ]
    header, rows = known_columns(["Method", *columns], rows)
    meanings = {title: f"{p.says} ({p.direction}; {p.source})." for title, (p, _) in columns.items() if title in header}
    return [Grid("published", "Measures of other papers", CAPTION, header, rows, meanings).narrow("Measure")]


def _of(results: Results, method: str) -> Reads:
    seeds = dict.fromkeys(s.seed for s in results.published if s.method == method)
    return {seed: Read([s for s in results.published if (s.method, s.seed) == (method, seed)]) for seed in seeds}


def _columns(measure: Published, both: bool) -> list[tuple[str, Part]]:
    """Its title, or one for passages and one for questions: a mean over both would be of neither."""
    if not both or measure.name not in EITHER:
        return [(measure.title, "")]
    parts: tuple[Part, ...] = ("passages", "questions")
    return [(f"{measure.title}, {part}", part) for part in parts]


def _cell(measure: Published, part: Part, mine: Reads, twin: Reads) -> Cell:
    """A measure on one model; a dash where it is about texts that there are none of, or compares with a model that there is not."""
    if measure.name == "model_utility":
        return Cell(number(_average([r.model_utility for r in mine.values()]), 3))
    if measure.name.startswith("forget_quality"):
        return _forget_quality(truth_ratio if measure.name == "forget_quality" else truth_ratio_of_code, mine, twin)
    if measure.name == "privleak":
        return _privleak(mine, twin)
    values = [v for r in mine.values() if len(v := r.values(measure.name, part))]
    return cell(rate(values) if measure.name == "choices" else _mean(values), digits=3)


def _mean(values: Sequence[np.ndarray]) -> Estimate:
    """Without an interval where all texts have one value: of these Student's would have no width."""
    found = mean(values).within(0, 1)
    return replace(found, low=math.nan, high=math.nan) if len(values) == 1 and not np.ptp(values[0]) else found


def _forget_quality(ratio: Ratio, mine: Reads, twin: Reads) -> Cell:
    """Over the questions of the seeds that both models have. An infinite R is the largest; of one that is NaN nothing is known."""
    a, b = (
        np.array([x for seed, r in reads.items() if seed in mine and seed in twin for x in r.truth_ratios(ratio)]) for reads in (mine, twin)
    )
    known = not np.isnan([*a, *b]).any()
    distance, p = forget_quality(*(x.clip(max=np.finfo(float).max) for x in (a, b))) if known else (math.nan, math.nan)
    # Of many questions methods differ in the exponent.
    said = p_value(p) if not p < SMALL else f"p {p:.0e}".replace("e-0", "e-") if p else "p <1e-300"
    return Cell(number(math.nan)) if math.isnan(p) else Cell(said, note=f"D {number(distance, 2)}, {len(a)} questions")


def _privleak(mine: Reads, twin: Reads) -> Cell:
    pairs = [(_outsiders(r), _outsiders(twin[seed])) for seed, r in mine.items() if seed in twin]
    value = _average([privleak(a, b) for a, b in pairs])
    sizes = [f"{len(r.membership('forget'))} against {len(r.membership('unseen'))}" for r in mine.values()]
    return Cell(number(value), note=sizes[0] if math.isfinite(value) else "")


def _outsiders(read: Read) -> float:
    """1 − AUC of passages to forget against never-seen ones, as MUSE has it."""
    return 1 - auc(read.membership("forget"), read.membership("unseen"))


def _average(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan
