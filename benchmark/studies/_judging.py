"""From rows of labelled models to the value of every measure, of each memory and of each model; higher where more is held.

A frame has one line per model and memory: what `_asking` measured, and beside it `model`, `group`, `seed`, `parent`, `kind` and `held_out`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from ...leaderboard.measures import tries_needed
from ...leaderboard.membership import auc, forget_quality, privleak
from ...leaderboard.statistics import Estimate
from ..common.types import HORIZON, TWIN, Record
from ..scoring.calibration import Calibration, excess, recovered
from ..scoring.score import Score, strength
from ._asking import MATCHED
from ._auc import NOTHING, auc_of, clustered_auc, difference_of_aucs
from ._labelled import HOLDS, NEVER

UNIT = ["model", "seed"]
TRIES = 1000  # samples within which a text counts as extractable
OF_TEXTS = ("extraction_strength", "exact_memorisation", "memorisation_score", "rouge_l", "truth_margin", "exposure", "not depth")
OF_MEMBERSHIP = ("loss", "zlib_ratio", "min_k", "min_k_plus_plus", "reference", "sampling")
LEAK = "leak, black-box"
OPENING = "exact opening"  # tells what comes back whole, and counts for nothing else


def score_of(frame: pd.DataFrame, access: Mapping[str, str]) -> Score:
    """The benchmark's own score of all models in the frame. A target shorter than 64 tokens that comes back whole counts as whole."""
    records = []
    for row in frame.to_dict("records"):
        cell = ("instrument", row["model"], row["seed"], row["model"], row["memory"], row["role"], False)
        for attack, level in access.items():
            if _known(row.get(MATCHED + attack)):
                matched = int(row[MATCHED + attack])
                records.append(Record(*cell, attack, "", level, 0, 0, 0, "", matched, row["horizon"]))
        if _known(row.get("opening")):
            whole = HORIZON if row["opening"] >= row["horizon"] else int(row["opening"])
            records.append(Record(*cell, OPENING, "", access["prefix"], 0, 0, 0, "", whole, HORIZON, asks="exact"))
    return Score(records, TWIN, diagnostics=(OPENING,))  # of thresholds only lengths in tokens are made


@dataclass(frozen=True)
class Judged:
    """Every measure of labelled models."""

    frame: pd.DataFrame = field(repr=False)
    access: Mapping[str, str]
    score: Score = field(repr=False)

    @classmethod
    def of(cls, frame: pd.DataFrame, access: Mapping[str, str]) -> Judged:
        return cls(frame, access, score_of(frame, access))

    @cached_property
    def levels(self) -> dict[str, Calibration]:
        """Access level -> its calibration, where the null allows one."""
        return {level: c for level, c in self.score.calibrations.items() if c.possible}

    @cached_property
    def held(self) -> pd.Series:
        """For each line of `memories`: whether the held model of the seed reproduces the memory whole."""
        exact = self.score.exact("none")
        there = exact.index[exact.to_numpy(bool)]
        return pd.Series(pd.MultiIndex.from_frame(self.memories[["seed", "memory"]]).isin(there), self.memories.index)

    @cached_property
    def memories(self) -> pd.DataFrame:
        """A line per model and forget memory: `model`, `group`, `seed`, `memory` and all measures, NaN where one was not taken."""
        mine = self.frame[self.frame.role == "forget"].reset_index(drop=True)
        lengths = self._lengths(mine)
        out = mine[[*UNIT, "group", "parent", "kind", "memory"]].copy()
        for level, c in self.levels.items():
            out[f"leak, {level}"] = recovered(lengths, c).astype(float)
        for level, c in self.levels.items():
            out[f"tokens beyond chance, {level}"] = excess(lengths, c.quantiles) - c.tau
        for level in self.score.levels:
            names = [a for a, x in self.access.items() if strength(x) <= strength(level)]
            out[f"worst tokens, {level}"] = lengths[names].max(axis=1)
            out[f"excess, {level}"] = lengths[names].max(axis=1) - self._twins(mine, lengths[names].max(axis=1))
        for attack in self.access:
            out[f"attack {attack}"] = lengths[attack]
        out["exact"] = (mine.opening >= mine.horizon).astype(float)
        out["opening, tokens"] = mine.opening
        out["verbatim length"] = lengths[[a for a in ("prefix", "shifted_window") if a in lengths]].max(axis=1)
        depth = mine["depth"] if "depth" in mine else pd.Series(np.nan, mine.index)
        for name in OF_TEXTS + OF_MEMBERSHIP:
            out[name] = 1 - depth if name == "not depth" else mine.get(name, np.nan)
        return out

    @cached_property
    def measures(self) -> list[str]:
        """Names of the measures of memories that were taken."""
        apart = {*UNIT, "group", "parent", "kind", "memory"}
        return [str(c) for c in self.memories if c not in apart and self.memories[c].notna().any()]

    @cached_property
    def models(self) -> pd.DataFrame:
        """A line per model and seed: what is printed of a model, by measure."""
        found = self.memories.groupby(UNIT, sort=False)
        out = found[self.measures].mean()
        for level in self.levels:  # leak is of memories that the held model reproduces, less the twin's
            name = f"leak, {level}"
            values = (self.memories[name] - self._twins(self.memories, self.memories[name])).where(self.held)
            out[name] = values.groupby([self.memories[c] for c in UNIT], sort=False).mean()
        for name in OF_MEMBERSHIP:
            out[f"AUC of {name}"] = [self._membership(name, unit) for unit in out.index]
        tries = pd.Series(tries_needed(self.memories["sampling"]) <= TRIES, self.memories.index).astype(float)
        out["sampling"] = tries.groupby([self.memories[c] for c in UNIT], sort=False).mean()
        out["PrivLeak (min_k)"] = [self._against_twin("AUC of min_k", unit, out) for unit in out.index]
        out["forget quality (KS D)"] = [self._distance(unit) for unit in out.index]
        return out.dropna(axis=1, how="all")

    @cached_property
    def groups(self) -> pd.Series:
        """(model, seed) -> group."""
        return self.frame.drop_duplicates(UNIT).set_index(UNIT)["group"].loc[self.models.index]

    def _lengths(self, rows: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({a: rows.get(MATCHED + a, pd.Series(np.nan, rows.index)) for a in self.access})

    def _twins(self, rows: pd.DataFrame, values: pd.Series) -> pd.Series:
        """What the twin of the seed has in place of each value."""
        theirs = values[rows.model == TWIN].set_axis(pd.MultiIndex.from_frame(rows.loc[rows.model == TWIN, ["seed", "memory"]]))
        return pd.Series(theirs.reindex(pd.MultiIndex.from_frame(rows[["seed", "memory"]])).to_numpy(), rows.index)

    def _membership(self, name: str, unit: tuple[str, int]) -> float:
        """The AUC of forget against unseen memories on one model, as evaluations print it."""
        rows = self.frame[(self.frame.model == unit[0]) & (self.frame.seed == unit[1])]
        if name == "reference" and unit[0] == TWIN:
            return 0.5  # of the twin against itself there is nothing to tell
        return auc(*(rows.loc[rows.role == role, name].dropna() for role in ("forget", "unseen"))) if name in rows else math.nan

    @staticmethod
    def _against_twin(name: str, unit: tuple[str, int], models: pd.DataFrame) -> float:
        return privleak(models[name][unit], models[name].get((TWIN, unit[1]), math.nan))

    def _distance(self, unit: tuple[str, int]) -> float:
        """The KS distance of a model's truth ratios from the twin's; it has no sign."""
        mine, twin = (self.memories[(self.memories.model == m) & (self.memories.seed == unit[1])].truth_margin for m in (unit[0], TWIN))
        return forget_quality(mine, twin)[0]


@dataclass(frozen=True)
class Told:
    """How well one measure tells models that hold from models that never did."""

    measure: str
    models: Estimate  # units are models
    by_seed: tuple[float, ...]
    memories: Estimate  # units are memories; NaN for what is no measure of a memory
    behind_leak: Estimate  # leak's AUC minus this one's, on the same models; NaN where there is no leak
    rounded: float  # the largest move of a model that was only rounded, as a share of what lies between the groups' means
    tuned: float  # the same where it was only fine-tuned on ordinary text


def told(judged: Judged) -> list[Told]:
    """All measures, the best first."""
    names = [str(name) for name in judged.models]
    first = next((name for name in (LEAK, *names) if name in names and name.startswith("leak,")), "")
    found = [_told(judged, name, first) for name in names]
    return sorted((t for t in found if t.models), key=lambda t: (-t.models.value, -t.memories.value if t.memories else 1, t.measure))


def _told(judged: Judged, name: str, first: str) -> Told:
    values, groups = judged.models[name], judged.groups

    def pair(column: pd.Series, within: Callable[[pd.Index], np.ndarray] | None = None) -> tuple[np.ndarray, np.ndarray]:
        known = column.notna() & (within(column.index) if within else True)
        return tuple(column[known & (groups == g)].to_numpy(float) for g in (HOLDS, NEVER))  # type: ignore[return-value]

    seeds = sorted(set(values.index.get_level_values("seed")))
    by_seed = tuple(auc(*pair(values, lambda index, s=s: index.get_level_values("seed") == s)) for s in seeds)
    behind = NOTHING
    if first and name != first:
        both = values.notna() & judged.models[first].notna()
        behind = difference_of_aucs(pair(judged.models[first].where(both)), pair(values.where(both)))
    moved = {kind: _moved(judged, name, kind) for kind in ("rounded", "tuned")}
    return Told(name, auc_of(*pair(values)), by_seed, _of_memories(judged, name), behind, moved["rounded"], moved["tuned"])


def _of_memories(judged: Judged, name: str) -> Estimate:
    if name not in judged.memories:
        return NOTHING
    known = judged.memories[judged.memories[name].notna()]
    parts = [known[known.group == g] for g in (HOLDS, NEVER)]
    clusters = tuple([f"{s} {m}" for s, m in zip(p.seed, p.memory, strict=True)] for p in parts)
    return clustered_auc(*(p[name].to_numpy(float) for p in parts), clusters)  # type: ignore[arg-type]


def _moved(judged: Judged, name: str, kind: str) -> float:
    values, groups = judged.models[name], judged.groups
    between = abs(values[groups == HOLDS].mean() - values[groups == NEVER].mean())
    about = judged.frame.drop_duplicates(UNIT)
    about = about[(about.kind == kind) & about.group.isin([HOLDS, NEVER])]
    moves = [abs(values[m, s] - values[p, s]) for m, s, p in zip(about.model, about.seed, about.parent, strict=True)]
    known = [x for x in moves if math.isfinite(x)]
    return max(known) / between if known and between > 0 else math.nan


def innocent(judged: Judged) -> pd.DataFrame:
    """Lengths [model, seed, role, memory] x attacks where nothing was held: the null, and what models that never held say."""
    unseen = (judged.frame.role == "unseen") & judged.frame.model.isin(["none", TWIN])
    rows = judged.frame[unseen | (judged.frame.role == "forget") & (judged.frame.group == NEVER)].reset_index(drop=True)
    return judged._lengths(rows).set_axis(pd.MultiIndex.from_frame(rows[["model", "seed", "role", "memory"]]))


def false_positives(judged: Judged) -> dict[tuple[str, str], Sequence[float]]:
    """(level, model) -> recovered or not, 0 or 1, for each forget memory of models that never held, by the thresholds of the null."""
    never = judged.memories[judged.memories.group == NEVER]
    return {(level, str(m)): part[f"leak, {level}"].tolist() for level in judged.levels for m, part in never.groupby("model", sort=False)}


def _known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))
