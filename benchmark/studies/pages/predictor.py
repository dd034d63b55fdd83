"""What the study `predictor` shows, from its rows alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from ....leaderboard.drawing import COLOURS, FAINT, STYLE, WIDTH, svg
from ....leaderboard.statistics import Estimate, figure
from ....leaderboard.study_results import OURS, Found, StudyFigure, StudyTable, Verdict, direction
from .lines import finite

OWN = "the held model"
PREDICTORS = ("Transformer", "entropy alone", "majority")
PAPER = {16: (80.3, 10.9), 64: (82.1, 6.0)}  # token and whole-sequence accuracy in %, Pythia-12B


def page(rows: pd.DataFrame, lengths: Sequence[int]) -> Found:
    """Accuracies beside those of the baselines, calibration, transfer."""
    accuracy, bins = (rows[rows.row == kind] for kind in ("accuracy", "bin"))
    notes = [
        "The paper reports no majority baseline. Where most tokens are of one kind, the majority is right about most of them.",
        "Train, choice and test memories are apart; continuations of one memory from several boundaries are always on one side.",
        "The encoder sees the whole continuation; who must judge a token as it is said has less.",
        "On models it was not trained on the verdict is against the commoner label of their own tokens; tables show that of the training.",
        "States of another size go through a linear map that was fitted on ordinary text.",
    ]
    if accuracy.seed.nunique() < 2:
        notes.append("One seed, and its rows hold accuracies over all test memories, not of each: no interval can be given, nor a verdict.")
    return Found(
        list(_verdicts(accuracy, lengths)), [_table(accuracy)], [_calibration(bins, max(lengths)), _transfer(accuracy, lengths)], notes
    )


def _table(accuracy: pd.DataFrame) -> StudyTable:
    lines = []
    for (length, where, name), part in accuracy.groupby(["length", "where", "predictor"], sort=False):  # type: ignore[misc]
        line: dict[str, Any] = {
            "tokens": int(str(length)),
            "of": str(where),
            "predictor": str(name),
            "memorised, %": 100 * float(part.memorised.mean()),
        }
        for column, words in (("token_accuracy", "token accuracy, %"), ("sequence_accuracy", "whole continuations, %")):
            e = figure(part[column].tolist()).within(0, 1).scaled(100)
            ends = {f"{words.split()[0]}: from": e.low, f"{words.split()[0]}: to": e.high}
            line |= {words: e.value} | (ends if len(e.by_seed) > 1 else {})
        line |= {"Brier": float(part.brier.mean()), "calibration error": float(part.calibration_error.mean())}
        lines.append({k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()})
    return StudyTable("Accuracy", lines, f"On memories that the predictor never met; {_over(accuracy)}.")


def _over(accuracy: pd.DataFrame) -> str:
    """What stands in tables and figures, in words."""
    several = accuracy.seed.nunique() > 1
    return "means over seeds with 95% intervals" if several else "of one seed, so without intervals: rows hold no single memories"


def ahead(accuracy: pd.DataFrame, column: str, length: int, other: str, where: str = OWN) -> Estimate:
    """How far the Transformer is ahead of another predictor, in points, over seeds."""
    mine, theirs = (_by_seed(accuracy, column, length, name, where) for name in ("Transformer", other))
    return figure(((mine - theirs) * 100).dropna().tolist())


def ahead_of_own_majority(accuracy: pd.DataFrame, length: int, where: str) -> Estimate:
    """The same against the commoner label of the very tokens it judges; on another model that of the training may be the rarer one."""
    mine, share = (_by_seed(accuracy, c, length, "Transformer", where) for c in ("token_accuracy", "memorised"))
    return figure(((mine - share.clip(lower=1 - share)) * 100).dropna().tolist())


def _by_seed(accuracy: pd.DataFrame, column: str, length: int, name: str, where: str) -> pd.Series:
    chosen = accuracy[(accuracy.length == length) & (accuracy.predictor == name) & (accuracy["where"] == where)]
    return chosen.set_index("seed")[column]


def _verdicts(accuracy: pd.DataFrame, lengths: Sequence[int]) -> Iterator[Verdict]:
    for length in lengths:
        told = f"Token accuracy {PAPER[length][0]}%, whole {PAPER[length][1]}% (12B)" if length in PAPER else "Not reported at this length"
        for column, words in (("token_accuracy", "tokens"), ("sequence_accuracy", "whole continuations")):
            found = ahead(accuracy, column, length, "majority")
            yield direction(
                f"It beats the majority on {words}, at length {length}.", f"{told}; no baseline.", found, unit="points", above=0
            )
        found = ahead(accuracy, "token_accuracy", length, "entropy alone")
        yield direction(f"It beats entropy alone on tokens, at length {length}.", f"{told}; no baseline.", found, unit="points", above=0)
    least, most = min(lengths), max(lengths)
    if least < most:
        grown, fallen = (
            figure(((_by_seed(accuracy, c, most, "Transformer", OWN) - _by_seed(accuracy, c, least, "Transformer", OWN)) * 100).tolist())
            for c in ("token_accuracy", "sequence_accuracy")
        )
        yield direction(
            f"Token accuracy rises from {least} to {most} tokens.", "80.3% at 16 tokens, 82.1% at 64 (12B).", grown, unit="points", above=0
        )
        yield direction(
            f"Whole continuations are harder at {most} than at {least} tokens.",
            "10.9% at 16 tokens, 6.0% at 64 (12B).",
            fallen,
            unit="points",
            below=0,
        )
    for where in dict.fromkeys(accuracy["where"]):
        if where != OWN:
            found = ahead_of_own_majority(accuracy, most, str(where))
            claim = f"It is ahead of the majority on tokens of a model it was not trained on: {where}."
            yield direction(claim, f"{OURS}not measured by the paper.", found, unit="points", above=0)


def _calibration(bins: pd.DataFrame, length: int) -> StudyFigure:
    lines = []
    with rc_context(STYLE):
        fig = Figure(figsize=(WIDTH, 3.0), layout="constrained")
        axes = fig.subplots()
        for i, name in enumerate(PREDICTORS):
            part = bins[(bins.predictor == name) & (bins["where"] == OWN) & (bins.length == length)]
            pooled = [
                {"predictor": name, "tokens": int(p.tokens.sum())}
                | {k: float(np.average(p[k], weights=p.tokens)) for k in ("said", "true")}
                for _, p in part.groupby("bin")
            ]
            style = "-" if len(pooled) > 1 else ""
            axes.plot(
                [b["said"] for b in pooled], [b["true"] for b in pooled], "osD"[i] + style, color=COLOURS[i], ms=4, lw=1.0, label=name
            )
            lines += pooled
        axes.plot([0, 1], [0, 1], color=FAINT, lw=0.8, ls=":")
        axes.set(xlabel="said: probability that the token is memorised", ylabel="share that is", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        fig.legend(loc="outside upper left", ncols=3, fontsize=8)
        drawn = svg(fig, "calibration", "Share of memorised tokens against predicted probability")
    return StudyFigure("calibration", drawn, f"Calibration on test memories of the held models, {length} tokens (dotted: perfect).", lines)


def _transfer(accuracy: pd.DataFrame, lengths: Sequence[int]) -> StudyFigure:
    lines, most = [], max(lengths)
    places = list(dict.fromkeys(accuracy["where"]))
    with rc_context(STYLE):
        fig = Figure(figsize=(WIDTH, 0.5 * len(places) + 1.0), layout="constrained")
        axes = fig.subplots()
        for i, name in enumerate(PREDICTORS):
            for k, where in enumerate(places):
                e = figure((_by_seed(accuracy, "token_accuracy", most, name, where) * 100).tolist()).within(0, 100)
                y = len(places) - 1 - k + 0.2 * (1 - i)
                axes.plot([e.low, e.high], [y, y], color=COLOURS[i], lw=0.9, alpha=0.7)
                axes.plot(e.value, y, "osD"[i], color=COLOURS[i], ms=4, label=name if k == 0 else None)
                lines.append({"of": where, "predictor": name, "token accuracy, %": e.value, "from": finite(e.low), "to": finite(e.high)})
        axes.set(yticks=range(len(places)), ylim=(-0.6, len(places) - 0.4), xlabel=f"token accuracy at {most} tokens, %")
        axes.set_yticklabels(places[::-1], fontsize=8)
        fig.legend(loc="outside upper left", ncols=3, fontsize=8)
        drawn = svg(fig, "transfer", "Token accuracy of each predictor on the held model, unlearned models and another size")
    return StudyFigure("transfer", drawn, f"Token accuracy on models the predictor was and was not trained on; {_over(accuracy)}.", lines)
