"""What the study of the goldfish loss found, from its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import rankdata

from ....leaderboard.membership import auc
from ....leaderboard.statistics import Estimate, figure, mean, rate
from ....leaderboard.study_results import CANNOT_TELL, Found, StudyFigure, StudyTable, Verdict, direction, said
from ...common.types import HORIZON
from .._auc import auc_of
from .._goldfish_answers import BEFORE, FAR, MEMBERSHIP, STANDARD, name_of
from .lines import Axis, line_figure

NEVER = "never met"
FEW = 0.05  # a share that is next to nothing
MARGINAL = 0.1  # of an AUC
MATCHES = 1.0  # % of held-out loss
NEAR = 2  # tokens behind a dropped one that are near it
Rows = Sequence[Mapping[str, Any]]

NOTES = (
    "Texts are met 24 times within a continued training of a small model; the paper trains TinyLlama-1.1B from scratch with texts met 50 "
    "times, and Llama-2-7B for 100 epochs. Downstream benchmarks are not measured here.",
    "Borders of 5% (next to nothing), 0.1 (a marginal change of an AUC) and 1% (losses that match) are ours.",
    "The mask hash is the paper's rule in an order-sensitive hash, hash-table the published code's: both drop a token by the ids about it; "
    "static drops by the place in the row; random drops anew at each meeting, so that no token is never seen.",
    "A search with beams tells for how long the text stays among them. That is more than the one best beam says, so it leaks sooner.",
)  # fmt: skip


def page(rows: Rows, ks: Sequence[int], masks: Sequence[str], every_mask: Sequence[int], equal: Sequence[int], beams: int) -> Found:
    """`rows`: one for each model and memory ("memory"), and one for the held-out loss of each model ("held-out")."""
    seen = Reading([r for r in rows if r["row"] == "memory"], [r for r in rows if r["row"] == "held-out"])
    by_k = [name_of(k, masks[0]) for k in ks]
    by_mask = {k: [name_of(k, mask) for mask in masks] for k in ks if k in every_mask}
    losses = list(dict.fromkeys([STANDARD, *by_k, *(n for names in by_mask.values() for n in names)]))
    longer = [f"{name_of(k, masks[0])}, longer" for k in equal]
    verdicts = [*_of_memory(seen, ks, masks[0], beams), *_of_loss(seen, equal, masks[0])]
    tables = [_answers(seen, [*losses, *longer], beams), _divergences(seen, losses), _held_out(seen, [*losses, *longer])]
    panels = {"by k": [STANDARD, *by_k, NEVER]} | {f"masks at k = {k}": [STANDARD, *names, NEVER] for k, names in by_mask.items()}
    figures = [
        _distribution(seen, panels, "rouge", "ROUGE-L", "at least this ROUGE-L with the text", np.linspace(0, 1, 6)),
        _distribution(seen, panels, "matched", "matched", "at least so many tokens of 64 matched", np.arange(0, 65, 16)),
        *_gaps(seen, losses),
    ]
    k_masks, k_equal = (", ".join(f"k = {k}" for k in of) or "no k" for of in (every_mask, equal))
    part = (
        f"Every mask was trained at {k_masks} alone, and on as many supervised tokens at {k_equal} alone; the other k have the first mask."
    )
    return Found(verdicts, [t for t in tables if t.rows], figures, [*NOTES, part])


class Reading:
    """Estimates over the seeds of rows."""

    def __init__(self, memories: Rows, held_out: Rows):
        self.memories, self.loss = memories, held_out
        self.seeds = sorted({r["seed"] for r in memories})

    def of(self, loss: str, met: bool = True) -> list[list[Mapping[str, Any]]]:
        """The rows of one model, by seed. `NEVER` is what the standard model says of memories that it never met."""
        loss, met = (STANDARD, False) if loss == NEVER else (loss, met)
        return [[r for r in self.memories if (r["seed"], r["trained"], r["met"]) == (seed, loss, met)] for seed in self.seeds]

    def share(self, loss: str, holds: Callable[[Mapping[str, Any]], Any]) -> Estimate:
        return rate([[bool(holds(r)) for r in rows] for rows in self.of(loss)])

    def mean(self, loss: str, quantity: str, most: float = HORIZON) -> Estimate:
        """Of values from 0 to `most`."""
        return mean([[r[quantity] for r in rows] for rows in self.of(loss)]).within(0, most)

    def less(self, loss: str, other: str, quantity: str) -> Estimate:
        """One model minus another on the same memories."""
        groups = []
        for mine, theirs in zip(self.of(loss), self.of(other), strict=True):
            known = {r["memory"]: r[quantity] for r in theirs}
            groups.append([r[quantity] - known[r["memory"]] for r in mine if r["memory"] in known])
        return mean(groups)

    def aucs(self, loss: str, attack: str) -> list[float]:
        """By seed: how well met memories are told from those never met."""
        both = zip(self.of(loss), self.of(loss, met=False), strict=True)
        return [auc([r[attack] for r in met], [r[attack] for r in never]) for met, never in both]

    def auc(self, loss: str, attack: str) -> Estimate:
        """Over seeds; where these agree to the last digit, as at 1, with the interval of as many texts, ranked within their seeds."""
        met, never = ([[r[attack] for r in rows] for rows in self.of(loss, met=m)] for m in (True, False))
        ranks = [rankdata([*a, *b]) for a, b in zip(met, never, strict=True)]
        parts = [(r[: len(a)], r[len(a) :]) for r, a in zip(ranks, met, strict=True)]
        every = auc_of(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        return figure(self.aucs(loss, attack), (every.low, every.high)).within(0, 1)

    def nats(self, loss: str) -> dict[int, float]:
        return {r["seed"]: r["nats"] for r in self.loss if r["trained"] == loss}

    def costs(self, loss: str, other: str) -> Estimate:
        """Held-out loss above another model's, in %."""
        base = self.nats(other)
        return figure([100 * (n / base[seed] - 1) for seed, n in self.nats(loss).items() if seed in base])

    def at_dropped(self, loss: str, near: int) -> tuple[Estimate, Estimate, Estimate]:
        """Of texts that differ, those that first do up to `near` tokens behind a dropped one; that of all tokens; their difference."""
        groups = [[r for r in rows if r["gap"] is not None] for rows in self.of(loss)]
        there = [[float(r["gap"] <= near) for r in rows] for rows in groups]
        chance = [[sum(r["gaps"][: near + 1]) / sum(r["gaps"]) for r in rows] for rows in groups]
        return rate(there), mean(chance).within(0, 1), mean([np.subtract(a, b) for a, b in zip(there, chance, strict=True)])


# ---- verdicts


def _of_memory(seen: Reading, ks: Sequence[int], mask: str, beams: int) -> list[Verdict]:
    out = []
    if 4 in ks:
        loss = name_of(4, mask)
        exact = direction(
            "With k = 4 next to nothing is repeated exactly.", "In the extreme setting: 84 of 100 with the standard loss, none with k = 4.",
            seen.share(loss, lambda r: r["exact"]).scaled(100), unit="%", below=100 * FEW,
        )  # fmt: skip
        out += [
            _against(exact, seen.share(STANDARD, lambda r: r["exact"])),
            direction(
                "What is said first differs from the text at tokens that the loss left out (k = 4: share less that of all tokens).",
                "Generation first diverges at or near dropped tokens.", seen.at_dropped(loss, 0)[2].scaled(100), unit="points", above=0,
            ),
            *(_membership(seen, loss, attack) for attack in MEMBERSHIP),
        ]  # fmt: skip
    if 3 in ks:
        whole = direction(
            f"With k = 3 a search with {beams} beams finds next to nothing whole.", "k = 3 resists a 30-beam attack.",
            seen.share(name_of(3, mask), lambda r: r["in_beams"]).scaled(100), unit="%", below=100 * FEW,
        )  # fmt: skip
        out.append(_against(whole, seen.share(STANDARD, lambda r: r["in_beams"])))
    if {3, 4} <= set(ks):
        more = seen.less(name_of(4, mask), name_of(3, mask), "beam")
        out.append(
            direction(
                "With k = 4 the beams follow the text further than with k = 3.",
                "k of 4 and more begins to leak.",
                more,
                unit="tokens",
                above=0,
            )
        )
    return out


def _against(verdict: Verdict, standard: Estimate) -> Verdict:
    """Beside the same share under the standard loss: where that is not clearly above next to nothing, there is nothing to prevent."""
    words = f"{verdict.measured}, against {said(standard.scaled(100), '%')} with the standard loss"
    return replace(verdict, measured=words, says=verdict.says if standard.low > FEW else CANNOT_TELL)


def _membership(seen: Reading, loss: str, attack: str) -> Verdict:
    pairs = list(zip(seen.aucs(STANDARD, attack), seen.aucs(loss, attack), strict=True))
    standard, other = seen.auc(STANDARD, attack), seen.auc(loss, attack)
    apart = standard.value - other.value
    low = apart - np.hypot(standard.value - standard.low, other.high - other.value)
    high = apart + np.hypot(standard.high - standard.value, other.value - other.low)
    lost = figure([a - b for a, b in pairs], (float(low), float(high)))
    return direction(
        f"Membership inference by {attack} hardly suffers (AUC of the standard loss minus that of k = 4).",
        "Only a marginal change of membership inference.", lost, below=MARGINAL,
    )  # fmt: skip


def _of_loss(seen: Reading, equal: Sequence[int], mask: str) -> list[Verdict]:
    return [
        direction(
            f"At equal supervised tokens held-out loss is that of the standard loss (k = {k}; size of the difference).",
            "Validation loss matches at equal supervised tokens.",
            size(seen.costs(f"{name_of(k, mask)}, longer", STANDARD)), unit="%", below=MATCHES,
        )
        for k in equal
    ]  # fmt: skip


def size(e: Estimate) -> Estimate:
    """Of the absolute value: the interval holds the sizes of all values in the given one."""
    ends = sorted((abs(e.low), abs(e.high)))
    return Estimate(abs(e.value), 0.0 if e.low <= 0 <= e.high else ends[0], ends[1], e.by_seed, e.count)


# ---- tables and figures


def _answers(seen: Reading, losses: Sequence[str], beams: int) -> StudyTable:
    cells = []
    for loss in (*losses, NEVER):
        row = {
            "loss": loss,
            "exact, %": said(seen.share(loss, lambda r: r["exact"]).scaled(100)),
            "ROUGE-L": said(seen.mean(loss, "rouge", 1)),
            "first difference, tokens": said(seen.mean(loss, "matched")),
        }
        if loss != NEVER:
            row |= {
                f"in {beams} beams, tokens": said(seen.mean(loss, "beam")),
                f"whole in {beams} beams, %": said(seen.share(loss, lambda r: r["in_beams"]).scaled(100)),
                **{f"AUC by {a}": said(seen.auc(loss, a)) for a in MEMBERSHIP},
            }
        cells.append(row)
    caption = (
        "After the exact opening, 64 tokens; means over met memories with 95% intervals over seeds, of one seed over its memories. AUC: "
        "met memories against those never met, which the last row reads under the standard loss. Longer: a stream k/(k-1) times as long."
    )
    return StudyTable("What comes back", cells, caption)


def _divergences(seen: Reading, losses: Sequence[str]) -> StudyTable:
    cells = []
    for loss in losses:
        at, chance, _ = seen.at_dropped(loss, 0)
        near, chance_near, _ = seen.at_dropped(loss, NEAR)
        if at:
            cells.append(
                {
                    "loss": loss, "texts": at.count,
                    "at a dropped token, %": said(at.scaled(100)), "of all tokens, %": said(chance.scaled(100)),
                    f"up to {NEAR} behind, %": said(near.scaled(100)), "of all tokens so near, %": said(chance_near.scaled(100)),
                }
            )  # fmt: skip
    caption = (
        "Of texts whose continuation differs from the target: where it first does. Of all tokens: the same share of the targets' tokens."
    )
    return StudyTable("First difference and dropped tokens", cells, caption)


def _held_out(seen: Reading, losses: Sequence[str]) -> StudyTable:
    cells = [
        {
            "loss": loss, "held-out loss, nats per token": said(figure(list(seen.nats(loss).values()))),
            "above the standard loss, %": said(seen.costs(loss, STANDARD)) if loss != STANDARD else None,
            "above the base, %": said(seen.costs(loss, BEFORE)) if loss != BEFORE else None,
        }
        for loss in (BEFORE, *losses)
    ]  # fmt: skip
    caption = (
        "Rows of the validation split. All but those marked longer were given the same tokens; longer: more, of which as many counted "
        "as under the standard loss."
    )
    return StudyTable("Held-out loss", cells, caption)


def _distribution(seen: Reading, panels: Mapping[str, Sequence[str]], quantity: str, name: str, words: str, at: np.ndarray) -> StudyFigure:
    drawn = {
        title: {loss: [(float(x), seen.share(loss, lambda r, x=x: r[quantity] >= x - 1e-9)) for x in at] for loss in losses}
        for title, losses in panels.items()
    }
    caption = f"Which share of memories has {words}, by loss: the distribution over memories, read from the right."
    return line_figure(name.lower(), caption, drawn, Axis(words, [float(x) for x in at]), Axis("share of memories"))


def _gaps(seen: Reading, losses: Sequence[str]) -> list[StudyFigure]:
    """Where the first difference lies behind the last dropped token, beside where all tokens lie."""
    drawn = {}
    for loss in losses:
        groups = [[r for r in rows if r["gap"] is not None] for rows in seen.of(loss)]
        if any(groups):
            places = range(FAR + 1)
            drawn[loss] = {
                "first difference": [(float(g), rate([[r["gap"] == g for r in rows] for rows in groups])) for g in places],
                "all tokens": [
                    (float(g), mean([[r["gaps"][g] / sum(r["gaps"]) for r in rows] for rows in groups]).within(0, 1)) for g in places
                ],
            }
    caption = (
        f"How far the first difference lies behind the last dropped token ({FAR}: so many tokens or more), and all tokens of the targets."
    )
    axis = Axis("tokens behind the last dropped one", [float(g) for g in range(0, FAR + 1, 3)])
    return [line_figure("divergence", caption, drawn, axis, Axis("share"))] if drawn else []
