"""What the study `dynamics` shows, from its rows alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from ....leaderboard.statistics import Estimate, bootstrap_interval, by_seed, difference, figure, mean, welch, wilson
from ....leaderboard.study_results import CANNOT_TELL, Found, StudyTable, Verdict, direction
from .._geometry import CLASSES
from .._scores import Scores
from .dynamics_figures import boundary_figure, score_figure
from .dynamics_geometry import geometry_figures

BINS = 5  # of 0.2
EMBEDDED = "pocket"  # begins the names of models that come with the package
EDGE = 4  # tokens on each side of the boundary that are averaged


def bin_of(scores: pd.Series) -> pd.Series:
    """0 to 4, for [0, .2], (.2, .4] …"""
    return (np.ceil(scores * BINS - 1e-9).clip(1) - 1).astype(int)


def transitions(scores: Scores, small: str, large: str) -> np.ndarray:
    """How many of the texts in each bin of one model [5] are in each bin of another [5]; the same memories of the same seeds."""
    a, b = (bin_of(scores.of(m).set_index(["seed", "memory"]).score) for m in (small, large))
    both = pd.DataFrame({"from": a, "to": b}).dropna().astype(int)
    out = np.zeros((BINS, BINS), int)
    np.add.at(out, (both["from"], both["to"]), 1)
    return out


def page(rows: pd.DataFrame, sizes: Sequence[str], checkpoints: Sequence[str], usual: int) -> Found:
    """`sizes` from small to large, `checkpoints` of the last size from early to late."""
    whole_numbers = {"context": int, "continuation": int}  # beside rows of other kinds they are kept as real ones
    scores = Scores(rows[rows.row == "score"].astype(whole_numbers), usual)
    edges = rows[rows.row == "boundary"]
    steps = [*pairwise(sizes), *pairwise(checkpoints)]
    models = list(dict.fromkeys([*sizes, *checkpoints]))
    tables = [_distribution(scores, models), _by_length(scores, models), _bins_by_length(scores, sizes[-1])]
    tables += [*_transition_tables(scores, steps), _boundary(edges, models)]
    geometry = rows[rows.row == "geometry"]
    verdicts = [*_of_scores(scores, sizes), *_of_steps(scores, sizes), *_of_boundary(edges, sizes)]
    figures = [score_figure(scores, models), boundary_figure(edges, sizes[-1], usual), *geometry_figures(geometry, sizes[-1])]
    notes = [
        "The texts are passages injected 1 to 24 times, so how many are fully memorised follows from the doses. Contexts end at one "
        "boundary, so all continuations are of the same tokens.",
        f"Classes by the score of {usual} tokens after {usual} of context: memorised 1, half above .4 to .6, unmemorised at most .2.",
        f"Frequencies are logs of 1 + counts in the training text; {EDGE} tokens on each side of the boundary are averaged.",
        "The geometry is of means over pairs of texts, kept by step: of one seed there is no interval of a line. Main components are "
        "those of one seed's states; their signs and scales mean nothing across seeds.",
    ]
    return Found(verdicts, tables, figures, notes)


def _distribution(scores: Scores, models: Sequence[str]) -> StudyTable:
    lines = []
    for model in models:
        for role in ("forget", "unseen"):
            lines.append({"model": model} | _binned(scores, model, role))
    return StudyTable("Scores by model size", lines, f"{scores.usual} tokens after {scores.usual} tokens of context.")


def _bins_by_length(scores: Scores, model: str) -> StudyTable:
    lines = [
        {"context": context, "continuation": n} | _binned(scores, model, role, context, n)
        for context in sorted(set(scores.rows.context))
        for n in sorted(set(scores.rows.continuation))
        for role in ("forget", "unseen")
    ]
    caption = f"Which share of texts has a score in each bin, on {model}; the first bin holds 0 to .2, the last what is above .8."
    return StudyTable("Scores in bins by context and continuation", [line for line in lines if line["count"]], caption)


def _binned(scores: Scores, model: str, role: str, *cell: int) -> dict[str, Any]:
    """The distribution of the scores of a cell."""
    part = scores.of(model, role, *cell)
    shares = bin_of(part.score).value_counts(normalize=True)
    line: dict[str, Any] = {"texts": "injected" if role == "forget" else "never injected", "count": len(part)}
    line |= {f"{b / BINS:.1f} to {(b + 1) / BINS:.1f}, %": 100 * float(shares.get(b, 0)) for b in range(BINS)}
    ends = {"score 1, %": 100 * scores.whole(model, role, *cell).value, "mean": float(part.score.mean())}
    return line | {k: _number(v) for k, v in ends.items()}


def _by_length(scores: Scores, models: Sequence[str]) -> StudyTable:
    lines = []
    for model in models:
        for context in sorted(set(scores.rows.context)):
            for n in sorted(set(scores.rows.continuation)):
                whole, chance = (scores.whole(model, role, context, n).scaled(100) for role in ("forget", "unseen"))
                base = float(scores.of(model, "unseen", context, n).score.mean())
                line = {
                    "model": model,
                    "context": context,
                    "continuation": n,
                    "score 1, %": whole.value,
                    "from": whole.low,
                    "to": whole.high,
                }
                line |= {"never injected, %": chance.value, "mean score": float(scores.of(model, "forget", context, n).score.mean())}
                lines.append({k: _number(v) for k, v in (line | {"mean, never injected": base}).items()})
    return StudyTable("Scores by context and continuation", lines, "Intervals are over seeds; of one seed over its memories.")


def _transition_tables(scores: Scores, steps: Sequence[tuple[str, str]]) -> Iterator[StudyTable]:
    for small, large in steps:
        found = transitions(scores, small, large)
        lines = []
        for b in range(BINS):
            total = found[b].sum()
            line: dict[str, Any] = {"from": f"{b / BINS:.1f} to {(b + 1) / BINS:.1f}", "texts": int(total)}
            lines.append(line | {f"to {(k + 1) / BINS:.1f}, %": 100 * float(found[b, k]) / total if total else None for k in range(BINS)})
        yield StudyTable(f"Transitions from {small} to {large}", lines, "Injected texts; each line sums to 100.")


def _boundary(edges: pd.DataFrame, models: Sequence[str]) -> StudyTable:
    lines = []
    for model in models:
        for kind in CLASSES:
            part = edges[(edges.model == model) & (edges["class"] == kind)]
            line: dict[str, Any] = {"model": model, "texts": kind, "count": len(part)}
            for name in ("entropy", "1-gram", "2-gram"):
                e = _jump(part, name)
                line |= {f"{name}: jump": e.value, f"{name}: from": e.low, f"{name}: to": e.high}
            lines.append({k: _number(v) for k, v in line.items()})
    return StudyTable("At the boundary", lines, "Mean after minus mean before it; entropy in nats, frequencies in nats of 1 + count.")


def _jump(part: pd.DataFrame, name: str, edge: int = EDGE) -> Estimate:
    """After the boundary minus before it, over seeds."""
    return mean([np.array([_edge(x, edge) for x in p[name]]) for _, p in part.groupby("seed")])


def _edge(values: Sequence[float], edge: int) -> float:
    """Values from the second token of the context on: of a row cut in the middle, of which the first token was left out."""
    middle = (len(values) + 1) // 2 - 1
    return float(np.mean(values[middle : middle + edge]) - np.mean(values[middle - edge : middle]))


def _of_scores(scores: Scores, sizes: Sequence[str]) -> Iterator[Verdict]:
    """Of several seeds the intervals are over seeds, of one over its memories."""
    last = scores.by_memory(sizes[-1])
    low = difference([x <= 0.2 for x in last], [x >= 1 for x in last])
    claim = "Low scores dominate: more texts in the lowest bin than fully memorised."
    found = direction(claim, "Low scores dominate.", low.scaled(100), unit="points", above=0)
    yield replace(found, measured=f"{found.measured}; it follows from how often texts were injected", says=CANNOT_TELL)
    if len(sizes) > 1:
        grown = difference([x >= 1 for x in last], [x >= 1 for x in scores.by_memory(sizes[0])])
        claim, published = "Larger models memorise more texts fully.", "Fully memorised grows fastest; 70M to 2.8B far exceeds 2.8B to 12B."
        yield _of_size(direction(claim, published, grown.scaled(100), unit="points", above=0), sizes)
    contexts, lengths = (sorted(set(scores.rows[c])) for c in ("context", "continuation"))
    for values, name, published, what in (
        (lengths, "continuation", "Counts fall sub-linearly with the continuation.", "fall slower than the continuation grows"),
        (contexts, "context", "Counts rise super-linearly with the context.", "rise faster than the context grows"),
    ):
        if len(values) > 1:
            least, most = values[0], values[-1]
            cells = [(n, 0) if name == "context" else (0, n) for n in (least, most)]
            border = -1.0 if name == "continuation" else 1.0  # counts ~ length ** exponent
            claim = f"Fully memorised texts {what}, from {least} to {most} tokens."
            few, many = (scores.by_memory(sizes[-1], "forget", *cell) for cell in cells)
            growth = _growth(few, many, most / least)
            yield direction(claim, published, growth, unit="(exponent of the count)", above=border)


def _growth(few: Sequence[np.ndarray], many: Sequence[np.ndarray], ratio: float) -> Estimate:
    """The exponent with which the count of fully memorised texts grows while lengths do by `ratio`; none of seeds where both counts are 0.

    Where one is, half a text is added to each: without such seeds only those would be counted in which enough is left.
    """

    def exponent(a: np.ndarray, b: np.ndarray) -> float:
        before, after = int((a >= 1).sum()), int((b >= 1).sum())
        more = 0.0 if before and after else 0.5
        return math.log((after + more) / (before + more)) / math.log(ratio) if before or after else math.nan

    within = bootstrap_interval(exponent, *(np.concatenate(x) for x in (few, many)))
    return figure([exponent(a, b) for a, b in zip(few, many, strict=True)], within)


def _of_steps(scores: Scores, sizes: Sequence[str]) -> Iterator[Verdict]:
    """Whether what is highly memorised stays so in the larger model."""
    claim, published = "More than 90% of highly memorised texts stay so in the larger model.", "More than 90%."
    if len(sizes) < 2:
        yield Verdict(claim, published, "one size only", CANNOT_TELL)
        return
    found = transitions(scores, sizes[-2], sizes[-1])[-1]
    low, high = wilson(found[-1], int(found.sum()))
    stay = Estimate(100 * found[-1] / found.sum(), 100 * low, 100 * high) if found.sum() else Estimate(math.nan, math.nan, math.nan)
    yield direction(claim, published, stay, unit=f"% of {found.sum()}", above=90)
    if len(sizes) > 2:
        weights = [np.trace(m) / max(1, m.sum()) for m in (transitions(scores, a, b) for a, b in pairwise(sizes))]
        words = ", ".join(f"{w:.0%}" for w in weights)
        yield Verdict("Larger models have heavier diagonals.", "Heavier diagonals.", f"on the diagonal: {words} (no interval)", CANNOT_TELL)


def _of_boundary(edges: pd.DataFrame, sizes: Sequence[str]) -> Iterator[Verdict]:
    mine = edges[edges.model == sizes[-1]]
    memorised, not_so = (mine[mine["class"] == kind] for kind in ("memorised", "unmemorised"))
    yield direction("Entropy drops at the boundary of memorised texts.", "It drops.", _jump(memorised, "entropy"), unit="nats", below=0)
    yield direction("Entropy jumps at the boundary of unmemorised texts.", "It jumps.", _jump(not_so, "entropy"), unit="nats", above=0)
    published = "First generated minus last context, in billions: memorised .039, half .237, unmemorised -1.016 (one-grams, 12B)."
    claim = "The frequency of tokens rises more at the boundary of memorised than of unmemorised texts."
    yield direction(claim, published, _apart(memorised, not_so), unit="nats of count", above=0)
    if len(sizes) > 1:
        large, small = (_mean_entropy(edges[edges.model == size]) for size in (sizes[-1], sizes[0]))
        falls = mean(by_seed((large - small).dropna()))
        yield _of_size(direction("Entropy falls with size.", "It falls.", falls, unit="nats", below=0), sizes)


def _of_size(verdict: Verdict, sizes: Sequence[str]) -> Verdict:
    """The embedded models of two sizes were not trained alike, so nothing of theirs can be said of size alone."""
    if not any(size.startswith(EMBEDDED) for size in sizes):
        return verdict
    return replace(verdict, measured=f"{verdict.measured}; the smaller met half as many tokens, at another rate", says=CANNOT_TELL)


def _apart(memorised: pd.DataFrame, not_so: pd.DataFrame) -> Estimate:
    """How much more the 1-gram frequency rises from the last token of the context to the first generated one."""
    a, b = ({int(str(s)): np.array([_edge(x, 1) for x in p["1-gram"]]) for s, p in part.groupby("seed")} for part in (memorised, not_so))
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return figure([])
    mine, theirs = (np.concatenate([x[s] for s in seeds]) for x in (a, b))
    return figure([float(a[s].mean() - b[s].mean()) for s in seeds], welch(mine, theirs))


def _mean_entropy(part: pd.DataFrame) -> pd.Series:
    """Of each text, by seed."""
    return part.set_index(["seed", "role", "memory"]).entropy.map(np.mean)


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
