"""What the study of repetition found, from its rows: lengths by count, checkpoints compared, single shots and their control."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from ....leaderboard.statistics import Estimate, figure, mean
from ....leaderboard.study_results import Found, StudyFigure, StudyTable, Verdict, direction, said
from .._single_shot import CORPUS, NATURAL, TEMPLATE
from .._verbatim import mean_over_seeds
from .lines import Axis, line_figure, thinned

KINDS = ("natural", "shuffled")
LITTLE = 0.1  # of what the largest count brings: what a single sight may bring and still be next to nothing; a border of ours
MOSTLY = 0.5  # share above which something is most of it
Rows = Sequence[Mapping[str, Any]]


def page(repeated: Rows, once: Rows, checkpoints: Sequence[str], smaller: Sequence[str], counts: Sequence[int]) -> Found:
    """`repeated`: a row for each text and model after the stream; `once`: for each text, single-shot model and stop."""
    models = (*smaller, *checkpoints)
    verdicts = [*_of_repetition(repeated, checkpoints, counts), *_of_single_shots(once)]
    tables = [
        _lengths("Verbatim length by count, tokens", repeated, models, counts, "tokens"),
        _lengths("Verbatim length by count, normalised characters", repeated, models, counts, "characters"),
        _lengths("Verbatim length by count, those characters tokenised again", repeated, models, counts, "again"),
        _differences(repeated, checkpoints, smaller),
        _shots(once),
    ]
    return Found(verdicts, [t for t in tables if t.rows], [_curve(repeated, models, counts), _over_steps(once)], NOTES)


NOTES = (
    "Memories of all counts are in one stream, half of whose examples they are; Huang et al. inject one example in 10,000 or 50,000. "
    "Interference between memories and a falling learning rate are part of what is measured here.",
    "Lengths in tokens compare ids and end at 64. Huang et al. compare letters and digits and tokenise again: the second and third "
    "table, read over four prefixes and the window that is best by ids, since only generated text can be compared so.",
    "Shuffled memories are other memories of the same file than the natural ones of that seed; over three seeds each is both.",
    "Models of two sizes differ in more than size: the embedded pocket-small met half as many tokens as pocket (17 and 34 million), at a "
    "higher learning rate.",
    "All texts of a single-shot run are met in one step, and at the constant rate of the injection; the published runs have one text each.",
)


# ---- counts


def _of_repetition(rows: Rows, checkpoints: Sequence[str], counts: Sequence[int]) -> list[Verdict]:
    last, most = checkpoints[-1], counts[-1]
    share = figure([_share_of_one(_of(rows, seed, model=last, kind="natural"), most) for seed in _seeds(rows)])
    verdicts = [
        direction(
            f"One sight is not enough: it adds less than a tenth of the length that {most} add (the border is ours).",
            "Non-trivial repetition is needed.", share.scaled(100), unit="%", below=100 * LITTLE,
        )
    ]  # fmt: skip
    if len(checkpoints) > 1:
        first = checkpoints[0]
        verdicts += [
            direction(
                f"Later checkpoints hold more natural text ({last} minus {first}, mean over counts).",
                "Later checkpoints memorise more.", difference(rows, last, first, "natural"), unit="tokens", above=0,
            ),
            direction(
                f"Shuffled text is harder for later checkpoints ({last} minus {first}, mean over counts).",
                "Shuffled sequences are harder for later checkpoints.", difference(rows, last, first, "shuffled"), unit="tokens", below=0,
            ),
        ]  # fmt: skip
    return [
        *verdicts,
        direction(
            f"Likely text is held sooner ({last}: rank correlation of nats per token before and length after, within counts).",
            "Sequences of lower perplexity are memorised more.",
            figure([likelihood_and_length(_of(rows, seed, model=last, kind="natural")) for seed in _seeds(rows)]).within(-1, 1), below=0,
        ),
    ]  # fmt: skip


def _share_of_one(rows: Rows, most: int) -> float:
    """What a single sight adds to the length of texts never met, as a share of what the largest count adds; NaN where that is nothing."""
    length = {c: np.mean([r["tokens"] for r in rows if r["count"] == c]) for c in {r["count"] for r in rows}}
    if not {0, 1, most} <= length.keys() or length[most] <= length[0]:
        return float("nan")
    return float((length[1] - length[0]) / (length[most] - length[0]))


def difference(rows: Rows, model: str, other: str, kind: str) -> Estimate:
    """Tokens that one model holds more than another, on the same injected texts."""
    theirs = {(r["seed"], r["memory"]): r["tokens"] for r in rows if r["model"] == other and r["kind"] == kind}
    groups = defaultdict(list)
    for r in rows:
        if r["model"] == model and r["kind"] == kind and r["count"]:
            groups[r["seed"]].append(r["tokens"] - theirs[r["seed"], r["memory"]])
    return mean([groups[seed] for seed in sorted(groups)])


def likelihood_and_length(rows: Rows) -> float:
    """Spearman's correlation of the cost before with the length after, both less the mean of their count; NaN if one does not vary."""
    cost, length = [], []
    for count in {r["count"] for r in rows} - {0}:
        same = [r for r in rows if r["count"] == count]
        cost += list(np.subtract([r["base_nats"] for r in same], np.mean([r["base_nats"] for r in same])))
        length += list(np.subtract([r["tokens"] for r in same], np.mean([r["tokens"] for r in same])))
    if len(cost) < 3 or np.ptp(cost) == 0 or np.ptp(length) == 0:
        return float("nan")
    return float(stats.spearmanr(cost, length)[0])  # pyright: ignore


def _lengths(title: str, rows: Rows, models: Sequence[str], counts: Sequence[int], quantity: str) -> StudyTable:
    cells = []
    for model in models:
        for kind in KINDS:
            by_count = {f"{c}": _cell(mean_over_seeds(rows, quantity, model=model, kind=kind, count=c)) for c in (0, *counts)}
            cells.append({"model": model, "memories": kind, **by_count})
    sizes = sorted(
        {len([r for r in rows if (r["model"], r["kind"], r["count"]) == (models[0], kind, c)]) for kind in KINDS for c in counts}
    )
    caption = (
        "Columns: how often a memory was met. Means over memories, with 95% intervals over seeds (of one seed over its memories); of each "
        f"count that was met {' or '.join(map(str, sizes))} memories, all seeds together. No interval: all alike."
    )
    return StudyTable(title, cells, caption)


def _cell(e: Estimate) -> str:
    """An estimate in words; where nothing varies an interval without a width would say more than is known."""
    return f"{e.value:.3g}" if e.low == e.high else said(e)


def _differences(rows: Rows, checkpoints: Sequence[str], smaller: Sequence[str]) -> StudyTable:
    last = checkpoints[-1]
    cells = [
        {"model": last, "minus": other, **{kind: said(difference(rows, last, other, kind), "tokens") for kind in KINDS}}
        for other in (*smaller, *checkpoints[:-1])
    ]
    return StudyTable("The last checkpoint against the others", cells, "Mean over all injected memories, the same ones in both models.")


def _curve(rows: Rows, models: Sequence[str], counts: Sequence[int]) -> StudyFigure:
    panels = {
        kind: {m: [(c, mean_over_seeds(rows, "tokens", model=m, kind=kind, count=c)) for c in (0, *counts)] for m in models}
        for kind in KINDS
    }
    places = {float(c): float(i) for i, c in enumerate((0, *counts))}
    caption = "How much of a memory comes back after it was met so often: natural text and the same kind of text shuffled, by checkpoint."
    return line_figure("by-count", caption, panels, Axis("times met", thinned((0, *counts)), places), Axis("verbatim length, tokens"))


# ---- single shots


def _of_single_shots(rows: Rows) -> list[Verdict]:
    after = [r for r in rows if r["stop"]]
    likeness = [
        _mean(_of(after, s, treated=False, kind=TEMPLATE)) - _mean(_of(after, s, treated=False, kind=NATURAL)) for s in _seeds(after)
    ]
    return [
        *(
            direction(
                f"A model that never met {which} says most of what seems to be held of it after one sight (copies of the prompt counted).",
                "Apparent single-shot memorisation is mostly an illusion: a checkpoint that never saw the sequence reproduces it too.",
                figure([_never_met(after, seed, kind) for seed in _seeds(after)]).scaled(100), unit="%", above=100 * MOSTLY,
            )
            for which, kind in (("a memory", NATURAL), ("a text from a template", TEMPLATE))
        ),
        direction(
            "The illusion comes from templates: of these a model that met none says more than of other memories.",
            "It comes from templates, variations and induction.", figure(likeness), unit="tokens", above=0,
        ),
    ]  # fmt: skip


def _never_met(after: Rows, seed: int, kind: str) -> float:
    """What the control says, as a share of what the treated model does; of one kind, since templates outweigh memories by far."""
    treated, control = (_mean(_of(after, seed, treated=t, kind=kind)) for t in (True, False))
    return control / treated if treated else float("nan")


def _shots(rows: Rows) -> StudyTable:
    after, cells = [r for r in rows if r["stop"]], []
    for kind in (NATURAL, TEMPLATE, CORPUS):
        for quantity, words in (("apparent", "tokens, copies counted"), ("tokens", "tokens"), ("characters", "normalised characters")):
            met, never = (mean_over_seeds(after, quantity, kind=kind, treated=t) for t in (True, False))
            cells.append({"texts": kind, "length in": words, "met once": said(met), "never met": said(never)})
    caption = "Mean over the stops after the step in which texts are met. The treated model does not meet the held-out text either."
    return StudyTable("Met once and never met", cells, caption)


def _over_steps(rows: Rows) -> StudyFigure:
    stops = sorted({r["stop"] for r in rows})
    panels = {
        kind: {
            name: [(s, mean_over_seeds(rows, "apparent", kind=kind, treated=t, stop=s)) for s in stops]
            for name, t in (("met once", True), ("never met", False))
        }
        for kind in (NATURAL, TEMPLATE, CORPUS)
    }
    places = {float(s): float(i) for i, s in enumerate(stops)}
    caption = (
        "What seems to be held of a text that was met once at step 0, and what a model says that never met it; copies of the prompt count."
    )
    return line_figure(
        "single-shot", caption, panels, Axis("steps since the text was met", thinned(stops), places), Axis("apparent length, tokens")
    )


def _mean(rows: Rows) -> float:
    return float(np.mean([r["apparent"] for r in rows]))


def _of(rows: Iterable[Mapping[str, Any]], seed: int, **wanted: Any) -> list[Mapping[str, Any]]:
    return [r for r in rows if r["seed"] == seed and all(r[k] == v for k, v in wanted.items())]


def _seeds(rows: Rows) -> list[int]:
    return sorted({r["seed"] for r in rows})
