"""Who stands where in a track, from entries alone: the rules of `leaderboard/ranking.py` over what entries say of each memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import combinations

import pandas as pd

from ...benchmark.common.budget import Budget
from ...benchmark.common.types import HELD
from ...benchmark.scoring.score import strength
from ..cells import number
from ..entry import Entry, OfSeed
from ..entry_values import Leak, Number, Values
from ..ranking import Draws, Place, beyond, places, redrawn, told_apart
from ..ranking import test as tested

REFERENCES = (HELD, "retrain")  # the ceiling and the gold standard: never ranked
ANY = 1e9  # a budget that nobody exceeds
Key = tuple[int, str]  # seed, memory
NOT_ASKED = Number(None, why="not asked at this access level")


@dataclass(frozen=True)
class Stand:
    """Where an entry stands. Rows that are not ranked have no place, and `why` says why."""

    entry: Entry
    place: Place | None
    why: str = ""

    @property
    def rank(self) -> str:
        return str(self.place) if self.place else ""


@dataclass(frozen=True)
class Ranking:
    """The entries of one track, ready to be ranked for any access level and budget; tests of pairs are made once."""

    entries: Sequence[Entry]
    _tests: dict[tuple[str, str, str], tuple[float, float] | None] = field(default_factory=dict)

    @property
    def calibrated(self) -> bool:
        """Whether all entries have a leak."""
        return all(believed(e).calibrated for e in self.entries)

    @property
    def levels(self) -> tuple[str, ...]:
        """Access levels at which some entry was attacked, the weakest attacker first."""
        return tuple(sorted({c.access for e in self.entries for c in believed(e).leaks}, key=lambda level: (strength(level), level)))

    def value(self, entry: Entry, access: str) -> Number:
        """What the entry is ranked by: the excess over the twin, in tokens; less is better."""
        cell = leak_at(believed(entry), access)
        return NOT_ASKED if cell is None else cell.excess

    def test(self, one: Entry, other: Entry, access: str) -> tuple[float, float] | None:
        """p-value that two entries lose as much on the same memories, and the mean difference; nothing if they share no memory."""
        key = one.name, other.name, access
        if key not in self._tests:
            self._tests[key] = tested(lengths(one, access), lengths(other, access), as_series(twin(one, access)))
        return self._tests[key]

    def tests(self, entries: Iterable[Entry], access: str) -> dict[tuple[str, str], tuple[float, float]]:
        """The tests of all pairs of entries that share a memory, by name."""
        pairs = combinations(sorted(entries, key=lambda e: e.name), 2)
        return {(a.name, b.name): found for a, b in pairs if (found := self.test(a, b, access))}

    def stands(self, access: str, budget: Budget) -> list[Stand]:
        """All entries, the ranked ones first and the best of these first, then the other rows, then references."""
        why = {e.name: self._why_not(e, access, budget) for e in self.entries}
        rivals = sorted((e for e in self.entries if not why[e.name]), key=lambda e: (self.value(e, access).value, e.name))
        names = [e.name for e in rivals]
        found = places(names, told_apart(self.tests(rivals, access), names))
        others = sorted((e for e in self.entries if why[e.name]), key=lambda e: (e.method in REFERENCES, e.name))
        return [*(Stand(e, found[e.name]) for e in rivals), *(Stand(e, None, why[e.name]) for e in others)]

    def draws(self, access: str, budget: Budget) -> dict[str, Draws]:
        """What becomes of ranks when seeds, and memories within them, are drawn anew."""
        rivals = [s.entry for s in self.stands(access, budget) if s.place]
        twins = as_series(twin(rivals[0], access)) if rivals else pd.Series(dtype=float)
        return redrawn([e.name for e in rivals], beyond([lengths(e, access) for e in rivals], twins))

    def _why_not(self, entry: Entry, access: str, budget: Budget) -> str:
        values = believed(entry)
        if entry.method in REFERENCES:
            return "reference"
        if not values.learnt:
            return "nothing was learnt before it was to be forgotten"
        if self.value(entry, access).value is None:
            return f"not ranked: {self.value(entry, access).why or 'not measured'}"
        over = why_over(values, budget)
        return f"over budget: {over}" if over else ""


def why_over(values: Values, budget: Budget) -> str:
    """Which budget a row exceeds, in words; empty if none."""
    found = {"damage": values.damage.value, "collateral": values.collateral.value}
    over = budget.exceeded(*(math.nan if x is None else x for x in found.values()))
    return ", ".join(f"{word} {number(x)}" if (x := found.get(word)) is not None else word for word in over)


def words(budget: Budget) -> tuple[str, str]:
    """Both budgets as words: "5", or "any"."""
    damage, collateral = (f"{x:g}" if x < ANY else "any" for x in (budget.damage, budget.collateral))
    return damage, collateral


def budget_of(entries: Iterable[Entry]) -> Budget:
    """What a track allows: the budget of its entries' suites, if all say the same; otherwise the usual one."""

    def said(entry: Entry) -> Budget | None:
        found = entry.config.get("budget")
        both = [found.get(f.name) for f in fields(Budget)] if isinstance(found, dict) else []
        known = [float(x) for x in both if isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x <= ANY]
        return Budget(*known) if len(known) == len(fields(Budget)) else None

    found = {said(e) for e in entries}
    return (found.pop() if len(found) == 1 else None) or Budget()


def believed(entry: Entry) -> Values:
    """The values that count: those that somebody verified, else those that are claimed."""
    return entry.verified.values if entry.verified else entry.claimed


def leak_at(values: Values, access: str) -> Leak | None:
    """What an attacker of this level gets; nothing if the row was not attacked at this level."""
    return next((c for c in values.leaks if c.access == access), None)


def counted(entry: Entry, access: str) -> list[str]:
    """The attacks that an attacker of this level has, without diagnostics."""
    known = entry.memories
    return [a for a, level in known.attacks.items() if strength(level) <= strength(access) and a not in known.diagnostics]


def lengths(entry: Entry, access: str) -> pd.DataFrame:
    """Tokens: a row for each forget memory, a column for each attack of this level; NaN where it was not asked."""
    attacks = counted(entry, access)
    parts = {of.seed: pd.DataFrame({a: of.lengths[a] for a in attacks if a in of.lengths}, of.forget) for of in entry.memories.by_seed}
    return pd.concat(parts, names=["seed", "memory"]).astype(float)


def worst(entry: Entry, access: str) -> dict[Key, float]:
    """Tokens: the longest match on each forget memory over the attacks of this level; memories about which none was asked are left out."""
    return _each(entry, lambda of: _longest(of, counted(entry, access)))


def twin(entry: Entry, access: str) -> dict[Key, float]:
    """Tokens: the same of the twin."""
    return _each(entry, lambda of: of.twin.get(access, (None,) * len(of.forget)))


def _longest(of: OfSeed, attacks: Iterable[str]) -> list[float | None]:
    lists = [of.lengths[a] for a in attacks if a in of.lengths]
    return [max((n for lengths in lists if (n := lengths[i]) is not None), default=None) for i in range(len(of.forget))]


def _each(entry: Entry, lengths: Callable[[OfSeed], Sequence[float | None]]) -> dict[Key, float]:
    found: Mapping[Key, float | None] = {
        (of.seed, memory): n for of in entry.memories.by_seed for memory, n in zip(of.forget, lengths(of), strict=True)
    }
    return {k: n for k, n in found.items() if n is not None}


def as_series(values: Mapping[Key, float]) -> pd.Series:
    """Values by seed and memory."""
    index = pd.MultiIndex.from_tuples(list(values), names=["seed", "memory"])
    return pd.Series(list(values.values()), index, dtype=float)
