"""What the study `instrument` shows: tables, figures and verdicts, from its rows alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ....leaderboard.study_results import Found, StudyFigure, StudyTable, Verdict, direction
from .._auc import NOTHING, difference_of_aucs
from .._coverage import Case
from .._judging import LEAK, Judged, Told, told
from .._labelled import HOLDS, NEVER
from .instrument_coverage import coverage_table, coverage_verdicts, false_positive_table
from .instrument_figures import auc_figure, coverage_figure
from .instrument_hidden import hidden_knowledge
from .instrument_score import EXCESS, score_verdicts

PAPER = {"not depth": 0.971, "extraction_strength": 0.891, "exact_memorisation": 0.817, "rouge_l": 0.722}  # AUCs, arXiv 2605.24614


@dataclass(frozen=True)
class Rows:
    """All that was measured."""

    frame: pd.DataFrame = field(repr=False)
    access: Mapping[str, str]
    simulations: Mapping[Case, Sequence[Mapping[str, Any]]] = field(repr=False)
    draws: int = 50  # worlds of each case of real lengths


def page(rows: Rows, public: bool = False) -> Found:
    """Tables, figures and verdicts. Without a null that allows thresholds nothing is said of leak."""
    judged = Judged.of(rows.frame, rows.access)
    measures = told(judged)
    hidden = hidden_knowledge(judged)
    coverage = coverage_table(rows.simulations, rows.draws, judged)
    tables = [_measures_table(measures, judged), *_model_table(judged), *hidden[0], coverage, *false_positive_table(judged)]
    of_coverage = coverage_verdicts(coverage, rows.simulations, judged)
    verdicts = [*score_verdicts(measures, judged), *_of_paper(measures, judged), *of_coverage, *hidden[1]]
    figures = [
        StudyFigure("aucs", *auc_figure(measures), [_line(t) for t in measures]),
        StudyFigure("coverage", *coverage_figure(coverage.rows), coverage.rows),
    ]
    return Found(verdicts, tables, figures, _notes(judged, public))


def _line(t: Told) -> dict[str, Any]:
    return {
        "measure": t.measure,
        "AUC, models": _number(t.models.value), "from": _number(t.models.low), "to": _number(t.models.high),
        "by seed": " ".join(f"{x:.2f}" for x in t.by_seed if math.isfinite(x)),
        "AUC, memories": _number(t.memories.value), "memories from": _number(t.memories.low), "memories to": _number(t.memories.high),
        "leak is ahead by": _number(t.behind_leak.value), "ahead from": _number(t.behind_leak.low), "ahead to": _number(t.behind_leak.high),
        "rounding moves, %": _number(100 * t.rounded), "tuning moves, %": _number(100 * t.tuned),
    }  # fmt: skip


def _measures_table(measures: Sequence[Told], judged: Judged) -> StudyTable:
    sizes = judged.groups.value_counts()
    caption = (
        f"{sizes.get(HOLDS, 0)} models that hold the forget texts, {sizes.get(NEVER, 0)} that never did. AUC over models: of what is "
        "printed of a model (a mean over memories; of membership scores also the AUC against unseen texts); interval by Newcombe's method "
        "5, which takes models for independent, though those of a seed share a parent. AUC over memories: of one value per model and "
        "memory; interval over memories (Obuchowski). Leak is ahead by: its AUC over models minus this one's (DeLong, paired); without an "
        "interval where both tell all models apart. Rounding (int8, int4) and fine-tuning on ordinary text move a model by at most so "
        "many % of what lies between the means of the two groups."
    )
    return StudyTable("Which measure tells them apart?", [_line(t) for t in measures], caption)


def _model_table(judged: Judged) -> Iterator[StudyTable]:
    """Every kind of model with its main values: a mean over seeds."""
    values = judged.models.copy()
    names = [n for n in (LEAK, EXCESS, "exact", "not depth", "extraction_strength", "rouge_l", "AUC of min_k") if n in values]
    values["held-out loss"] = judged.frame.groupby(["model", "seed"], sort=False).held_out.first() if "held_out" in judged.frame else np.nan
    names.append("held-out loss")
    lines = []
    for (model, group), part in values.assign(group=judged.groups).groupby(["model", "group"], sort=False):  # type: ignore[misc]
        line: dict[str, Any] = {"model": str(model), "group": str(group), "seeds": len(part)}
        lines.append(line | {name: _number(float(part[name].mean())) for name in names})
    yield StudyTable(
        "The labelled models", lines, "Means over seeds; leak and exact are shares, excess is in tokens, loss in nats per token."
    )


def _of_paper(measures: Sequence[Told], judged: Judged) -> Iterator[Verdict]:
    """The order of measures that the paper found on its sixty models."""
    known = {t.measure: t for t in measures if t.measure in PAPER}
    for first, second in zip(list(PAPER)[:-1], list(PAPER)[1:], strict=True):
        if first not in known or second not in known:
            continue
        pairs = [
            tuple(judged.models[name][judged.groups == g].dropna().to_numpy(float) for g in (HOLDS, NEVER)) for name in (first, second)
        ]
        same = len(pairs[0][0]) == len(pairs[1][0]) and len(pairs[0][1]) == len(pairs[1][1])
        found = difference_of_aucs(*pairs) if same else NOTHING  # type: ignore[arg-type]
        published = f"AUC {PAPER[first]} against {PAPER[second]} on 60 models (arXiv 2605.24614)."
        verdict = direction(f"{first} tells them apart better than {second}.", published, found, above=0)
        values = f"{known[first].models.value:.3f} against {known[second].models.value:.3f}; difference {verdict.measured}"
        yield Verdict(verdict.claim, published, values, verdict.says)


def _notes(judged: Judged, public: bool) -> list[str]:
    levels = {level: [a for a, of in judged.access.items() if of == level] for level in dict.fromkeys(judged.access.values())}
    of_levels = "; ".join(f"{level}: {', '.join(names)}" for level, names in levels.items())
    out = [
        "Labels are by construction: a model holds the texts if it was trained on them and little or nothing was done to take them out.",
        "Models of a seed are made of one held model and one twin: they are fewer independent cases than models, which AUCs by seed show.",
        "With thirty models of a kind an AUC of 1 has an interval down to about .93: over models nothing can be shown to meet .99.",
        f"Leaks and excesses are of this study's battery: {of_levels}. Searches for prompts (gcg) and other trainings are not asked.",
        "Over memories leak is the call itself, recovered or not, without what is subtracted in a table; the excess is minus the twin's.",
        "Measures of likelihood (loss, Min-K%, truth margin …) know here which texts a model was trained on, however little it says of "
        "them. They need probabilities, and an unlearning method can move them without the text being gone; ranks go by what comes back.",
        "PrivLeak is 100 (AUC of the model - AUC of the twin) / AUC of the twin, of Min-K% of forget against unseen texts, where likelier "
        "is higher; MUSE takes 1 - AUC, which turns the sign. Forget quality is the KS distance of truth ratios from the twin's.",
        "Depth compares with the held model and the twin themselves, which hardly anybody has of a public model; it is told as 1 - depth.",
    ]
    if public:
        out.append("Public checkpoints: the null are the unseen texts on `held` and all texts on `twin`; there is no third group.")
    else:
        out.append(
            "What is forgotten in one seed is unseen in another, so a held model of another seed was trained on the unseen texts here: "
            "membership of forget against unseen texts says 0 of it."
        )
    if not judged.levels:
        out.append("Fewer than 288 null values: no leak, no thresholds, no false positives.")
    return out


def _number(value: float) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
