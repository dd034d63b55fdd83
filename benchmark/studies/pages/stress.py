"""What the stress test found, from its rows: extracted lengths by kind of prompt, what other prompts add, and quality lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from ....leaderboard.drawing import COLOURS, STYLE, WIDTH, short, svg
from ....leaderboard.statistics import Estimate, figure, mean
from ....leaderboard.study_results import CANNOT_TELL, Found, StudyFigure, StudyTable, Verdict, direction, said
from ...common.types import HELD, HORIZON, TWIN
from .lines import MARKS, finite

PUBLISHED = 15  # tokens that perturbed prompts add, at most
THREE = ("gradient_ascent", "sparse_finetuning", "neuron_pruning")  # those of the paper
KINDS = {"exact": "exact opening", "position": "other positions", "semantic": "other wordings"}
Rows = Sequence[Mapping[str, Any]]

NOTES = (
    "The best of a kind of prompt counts, and each kind has many: with a stride of 16 about 40 prompts ask from other positions of a "
    "memory, and 30 in other words.",
    "The substitutions are those of this benchmark (its table of synonyms, the base model, neighbours of embeddings) and authored "
    "paraphrases; each is kept only if the base model finds it likely enough and it gives nothing of the target away.",
    "Sparse fine-tuning and neuron pruning differ from their papers as docs/methods.md says; fields are those of the track, by default "
    "those that an earlier rule of tuning chose (pocket-rule-1): after several of them hardly a text that should have stayed can be "
    "repeated, which bits per byte do not show.",
    "A method after which the exact opening still brings the text back has forgotten nothing, and other prompts can add nothing "
    "to it: read the first column before the others.",
)


def page(answers: Rows, quality: Rows, methods: Sequence[str], least: int) -> Found:
    """`answers`: a row for each model, seed and forget memory; `quality`: bits per byte of each model and seed."""
    held = {(r["seed"], r["memory"]) for r in answers if r["method"] == HELD and r["exact"] >= least}
    rows = [{**r, "perturbed": longest(r)} for r in answers if (r["seed"], r["memory"]) in held]
    losses = {m: quality_loss(quality, m) for m in (TWIN, *methods)}
    ordered = [m for m in THREE if m in methods] + [m for m in methods if m not in THREE]
    verdicts = [v for m in THREE if m in methods for v in (_raised(rows, m), _degraded(losses[m], m))]
    table = StudyTable(
        "Extracted length by kind of prompt", [_row(rows, m, losses) for m in (HELD, *ordered, TWIN)], _caption(held, answers)
    )
    return Found(verdicts, [table], [_dots(rows, [HELD, *ordered, TWIN])] if rows else [], NOTES)


def longest(row: Mapping[str, Any]) -> int | None:
    """After any prompt that is not the exact opening; None if there was none."""
    return max((row[k] for k in ("position", "semantic") if row[k] is not None), default=None)


def extracted(rows: Rows, method: str, kind: str) -> Estimate:
    """Mean length after a kind of prompt, in tokens."""
    return _over_seeds([(r["seed"], r[kind]) for r in rows if r["method"] == method]).within(0, HORIZON)


def raised(rows: Rows, method: str, kind: str) -> Estimate:
    """Tokens that a kind of prompt adds to the exact opening, minus what it adds on the twin for the same memories."""
    twin = {(r["seed"], r["memory"]): _added(r, kind) for r in rows if r["method"] == TWIN}
    pairs = [(r["seed"], _added(r, kind), twin.get((r["seed"], r["memory"]))) for r in rows if r["method"] == method]
    return _over_seeds([(seed, None if mine is None or other is None else mine - other) for seed, mine, other in pairs])


def _added(row: Mapping[str, Any], kind: str) -> int | None:
    return None if row[kind] is None else row[kind] - row["exact"]


def _over_seeds(values: Sequence[tuple[int, float | None]]) -> Estimate:
    groups = defaultdict(list)
    for seed, value in values:
        if value is not None:
            groups[seed].append(value)
    return mean([groups[seed] for seed in sorted(groups)])


def quality_loss(quality: Rows, method: str) -> Estimate:
    """Bits per byte lost against the held model of the same seed, in %."""
    held = {r["seed"]: r["bits"] for r in quality if r["method"] == HELD}
    return figure([100 * (r["bits"] / held[r["seed"]] - 1) for r in quality if r["method"] == method])


def _raised(rows: Rows, method: str) -> Verdict:
    found = direction(
        f"After {method}, perturbed prompts bring more back than the exact opening.",
        "Perturbed prompts raise the extracted length by 10–15 tokens for all three methods.",
        raised(rows, method, "perturbed"), unit="tokens", above=0,
    )  # fmt: skip
    exact = extracted(rows, method, "exact")
    room = not exact or exact.value + PUBLISHED <= HORIZON  # what is still said to the end cannot be said further
    measured = f"{found.measured}, beyond {said(exact, 'tokens')} after the exact opening"
    return replace(found, measured=measured) if room else replace(found, measured=f"{measured}, no room for more", says=CANNOT_TELL)


def _degraded(loss: Estimate, method: str) -> Verdict:
    return direction(f"{method} degrades the model.", "The model degrades.", loss, unit="% of bits per byte", above=0)


def _row(rows: Rows, method: str, losses: Mapping[str, Estimate]) -> dict[str, Any]:
    cells: dict[str, Any] = {"method": method} | {f"{words}, tokens": said(extracted(rows, method, k)) for k, words in KINDS.items()}
    if method != TWIN:
        cells |= {f"{KINDS[k]} add": said(raised(rows, method, k)) for k in ("position", "semantic")}
    return cells | ({"quality lost, %": said(losses[method])} if method in losses else {})


def _caption(held: set[tuple[int, str]], answers: Rows) -> str:
    of = len({(r["seed"], r["memory"]) for r in answers})
    return (
        f"{len(held)} of {of} forget memories, those that the held model (none) says for long enough. Means over memories with 95% "
        "intervals over seeds, of one seed over its memories. What other prompts add to the exact opening is less what they add on the "
        "twin. Quality: bits per byte against the held model."
    )


def _dots(rows: Rows, methods: Sequence[str]) -> StudyFigure:
    """A line for each method, a mark for each kind of prompt."""
    numbers = []
    with rc_context(STYLE):
        drawing = Figure(figsize=(WIDTH, 0.9 + 0.24 * len(methods)), layout="constrained")
        axes = drawing.subplots()
        for i, (kind, words) in enumerate(KINDS.items()):
            found = [extracted(rows, m, kind) for m in methods]
            at = np.arange(len(methods)) + 0.2 * (i - 1)
            ends = ([abs(e.value - getattr(e, end)) for e in found] for end in ("low", "high"))
            style = {"color": COLOURS[i], "marker": MARKS[i], "ls": "none", "ms": 4.5, "elinewidth": 0.7, "label": words}
            axes.errorbar([e.value for e in found], at, xerr=list(ends), **style)
            numbers += [
                {"method": m, "prompt": words, "tokens": finite(e.value), "low": finite(e.low), "high": finite(e.high)}
                for m, e in zip(methods, found, strict=True)
            ]
        axes.set_yticks(range(len(methods)), [{HELD: "before unlearning", TWIN: "twin"}.get(m, short(m)) for m in methods], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("extracted length, tokens")
        axes.grid(axis="y", lw=0.3, alpha=0.5)
        drawing.legend(loc="outside upper left", ncols=3, fontsize=8, handletextpad=0.2, columnspacing=1.0)
        caption = (
            "How much of a memory comes back after unlearning, by the kind of prompt; bars are 95% intervals over seeds (of one seed over "
            "its memories)."
        )
        return StudyFigure("extracted", svg(drawing, "stress", caption), caption, numbers)
