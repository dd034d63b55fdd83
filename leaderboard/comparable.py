"""Whether two runs asked the same of the same, and in what else they differ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..benchmark.common.errors import UserError, listed
from ..benchmark.common.facts import MAY_DIFFER, MUST_AGREE
from ..benchmark.common.types import HELD
from .side import Side, cut


def comparable(old: Side, new: Side) -> list[str]:
    """Raise unless the runs asked the same of the same; else say in what else they differ."""
    if not (old.twin and new.twin):
        raise UserError("Runs are compared by what they recover beyond a retrained model, and one has none here: name it by retrained=….")
    wrong = [] if old.suite == new.suite else [f"suite ({old.suite}, {new.suite})"]
    for name in MUST_AGREE:
        a, b = getattr(old.facts, name), getattr(new.facts, name)
        wrong += [f"{name} ({_told(a, b)})"] if a != b else []
    if old.levels != new.levels or old.twin != new.twin:
        wrong.append("the attacks that count")
    seeds = {*old.seeds} & {*new.seeds}
    wrong += [] if seeds else ["no seed in common"]
    if not wrong and _memories(old, seeds) != _memories(new, seeds):
        wrong.append("which memories are to be forgotten and kept")
    if wrong:
        raise UserError(f"These runs cannot be compared; they differ in {'; '.join(wrong)}.")
    notes = [f"{name}: {_told(a, b)}" for name in MAY_DIFFER if (a := getattr(old.facts, name)) != (b := getattr(new.facts, name))]
    notes += [f"seeds: {_told(list(old.seeds), list(new.seeds))}"] if old.seeds != new.seeds else []
    for name in (HELD, old.twin):
        notes += [] if alike(old, new, name, name) else [f"the readings of {name} differ: the runs have other held or retrained models."]
    return notes


def same_memories(old: Side, new: Side, before: str, after: str, seeds: Iterable[int]) -> None:
    """Raise unless a method was asked about the same memories in both runs: one left out could be the one that came back."""
    for what in ("opening", "keep"):
        for seed in seeds:
            then, now = (set(cut(getattr(run, what), name, seed).index) for run, name in ((old, before), (new, after)))
            if missing := sorted(then ^ now):
                where = "old" if missing[0] in now else "new"
                raise UserError(
                    f"These runs cannot be compared: {after} of seed {seed} has no answers about {listed(missing)} in the {where} run."
                )


def _told(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        parts = [(k, old.get(k), new.get(k)) for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
        return listed([f"{k} {_told(a, b)}" for k, a, b in parts])
    return f"{_text(old)} → {_text(new)}"


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else "none" if value is None else str(value)


def _memories(run: Side, seeds: Iterable[int]) -> set[tuple[int, str, bool]]:
    rows = [(run.opening, True), (run.keep, False)]
    found = {(s, m, forget) for table, forget in rows for _, s, m in table.index}
    return {at for at in found if at[0] in seeds}


def alike(old: Side, new: Side, a: str, b: str) -> bool:
    """Whether every reading of a method is the same in both runs."""
    tables = [(getattr(old, name), getattr(new, name)) for name in ("opening", "lengths", "calls", "keep")]
    seeds = {*old.seeds} & {*new.seeds}

    def of(table: Any, method: str) -> Any:
        there = table.index.get_level_values("method") == method
        part = table[there & table.index.get_level_values("seed").isin(seeds)]
        return part.droplevel("method")

    same = all(of(x, a).equals(of(y, b)) for x, y in tables)
    documents = [{s: q.documents for (m, s), q in run.quality.items() if m == name and s in seeds} for run, name in ((old, a), (new, b))]
    return same and repr(documents[0]) == repr(documents[1])
