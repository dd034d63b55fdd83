"""Who stands where in a track, from entries alone: by what leaks, among the rows within budgets of damage and collateral.

A rank is an interval. Of every pair of ranked rows a paired test over the same memories says whether the two can be told apart, adjusted
for the number of pairs (Holm); a row's rank reaches from one more than the rows surely better to all but the rows surely worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import combinations

from ...benchmark.common.types import HELD, HORIZON
from ...benchmark.scoring.score import strength
from ..cells import number
from ..entry import Entry, OfSeed
from ..entry_values import Leak, Number, Values
from ..statistics import holm, mcnemar, paired_permutation

REFERENCES = (HELD, "retrain")  # the ceiling and the gold standard: never ranked
APART = 0.05  # adjusted p-value below which two rows are told apart
Key = tuple[int, str]  # seed, memory
NOT_RANKED = Number(None, why="not asked at this access level")


@dataclass(frozen=True)
class Budgets:
    """What a ranked row may have cost at most."""

    damage: float = 10.0  # % of the twin's quality
    collateral: float = 25.0  # points

    def why_over(self, values: Values) -> str:
        """Which budget a row exceeds, in words; empty if none."""
        asked = (("damage", values.damage, self.damage), ("collateral", values.collateral, self.collateral))
        over = [
            f"{name} {number(x.value)}" if x.value is not None else f"{name} not measured"
            for name, x, most in asked
            if math.isfinite(most) and (x.value is None or x.value > most)
        ]
        return ", ".join(over)

    @property
    def words(self) -> tuple[str, str]:
        """Both as words: "5", or "any"."""
        damage, collateral = (f"{x:g}" if math.isfinite(x) else "any" for x in (self.damage, self.collateral))
        return damage, collateral


def budgets_of(entries: Iterable[Entry]) -> Budgets:
    """What a track allows: the budget of its entries' suites, if all say the same; otherwise the usual one."""

    def said(entry: Entry) -> Budgets | None:
        found = entry.config.get("budget")
        both = [found.get(f.name) for f in fields(Budgets)] if isinstance(found, dict) else []
        known = [float(x) for x in both if isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x <= 1e6]
        return Budgets(*known) if len(known) == len(fields(Budgets)) else None

    found = {said(e) for e in entries}
    return (found.pop() if len(found) == 1 else None) or Budgets()


@dataclass(frozen=True)
class Place:
    """Where an entry stands. Unranked rows have no rank, and `why` says why."""

    entry: Entry
    rank: str
    why: str = ""
    value: Number = NOT_RANKED  # what it is ranked by


@dataclass(frozen=True)
class Ranking:
    """The entries of one track, ready to be ranked for any access level and budgets; tests of pairs are made once."""

    entries: Sequence[Entry]
    _tests: dict[tuple[str, str, str], float] = field(default_factory=dict)

    @property
    def calibrated(self) -> bool:
        """Whether all entries have a leak; otherwise the track is ranked by tokens beyond the twin."""
        return all(believed(e).calibrated for e in self.entries)

    @property
    def levels(self) -> tuple[str, ...]:
        """Access levels at which some entry was attacked, the weakest attacker first."""
        return tuple(sorted({c.access for e in self.entries for c in believed(e).leaks}, key=lambda level: (strength(level), level)))

    def value(self, entry: Entry, access: str) -> Number:
        """What the entry is ranked by: leak (share) or excess (tokens); less is better."""
        cell = leak_at(believed(entry), access)
        return NOT_RANKED if cell is None else cell.leak if self.calibrated else cell.excess

    def p(self, one: Entry, other: Entry, access: str) -> float:
        """That the two lose as much on the same memories: exact McNemar of the recovered, or a permutation test of the lengths.

        1 where they share no memory, since nothing then tells them apart.
        """
        key = (min(one.name, other.name), max(one.name, other.name), access)
        if key not in self._tests:
            mine, theirs = (_judged(e, access, self.calibrated) for e in (one, other))
            both = sorted(mine.keys() & theirs.keys())
            a, b = ([side[k] for k in both] for side in (mine, theirs))
            test = mcnemar if self.calibrated else lambda x, y: paired_permutation([i - j for i, j in zip(x, y, strict=True)])
            self._tests[key] = test(a, b) if both else 1.0
        return self._tests[key]

    def places(self, access: str, budgets: Budgets) -> list[Place]:
        """All entries, the ranked ones first and the best of these first, then those over budget, then references."""
        why = {e.name: self._why_not(e, access, budgets) for e in self.entries}
        rivals = sorted((e for e in self.entries if not why[e.name]), key=lambda e: (self.value(e, access).value, e.name))
        ranked = [Place(e, rank, "", self.value(e, access)) for e, rank in zip(rivals, self._ranks(rivals, access), strict=True)]
        others = sorted((e for e in self.entries if why[e.name]), key=lambda e: (e.method in REFERENCES, e.name))
        return [*ranked, *(Place(e, "", why[e.name], self.value(e, access)) for e in others)]

    def _why_not(self, entry: Entry, access: str, budgets: Budgets) -> str:
        values = believed(entry)
        if entry.method in REFERENCES:
            return "reference"
        if not values.learnt:
            return "nothing was learnt before it was to be forgotten"
        if self.value(entry, access).value is None:
            return f"not ranked: {self.value(entry, access).why or 'not measured'}"
        over = budgets.why_over(values)
        return f"over budget: {over}" if over else ""

    def _ranks(self, rivals: Sequence[Entry], access: str) -> list[str]:
        pairs = list(combinations(range(len(rivals)), 2))
        adjusted = holm([self.p(rivals[i], rivals[j], access) for i, j in pairs])
        apart = {pair for pair, p in zip(pairs, adjusted, strict=True) if p < APART}
        return spans(len(rivals), apart)


def spans(rows: int, apart: Iterable[tuple[int, int]]) -> list[str]:
    """Ranks of rows in order, "1" or "1–4"; `apart` are the pairs (better, worse) that can be told apart."""
    better, worse = [0] * rows, [0] * rows
    for i, j in apart:
        better[j] += 1
        worse[i] += 1
    ends = [(1 + better[i], rows - worse[i]) for i in range(rows)]
    return [str(first) if first == last else f"{first}–{last}" for first, last in ends]


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


def worst(entry: Entry, access: str) -> dict[Key, float]:
    """Tokens: the longest match on each forget memory over the attacks of this level; memories about which none was asked are left out."""
    return _each(entry, lambda of: _longest(of, counted(entry, access)))


def twin(entry: Entry, access: str) -> dict[Key, float]:
    """Tokens: the same of the twin."""
    return _each(entry, lambda of: of.twin.get(access, (None,) * len(of.forget)))


def recovered(entry: Entry, access: str) -> dict[Key, float]:
    """1 where some attack of this level passes its threshold, else 0, on the forget memories that the held model repeats whole."""
    limits = entry.memories.thresholds.get(access, {})
    held = _each(entry, lambda of: of.held)

    def passed(of: OfSeed) -> list[float | None]:
        asked = [(of.lengths[a], limit) for a, limit in limits.items() if a in of.lengths]
        return [float(any((n := lengths[i]) is not None and n > limit for lengths, limit in asked)) for i in range(len(of.forget))]

    return {k: v for k, v in _each(entry, passed).items() if held.get(k) == HORIZON}


def _judged(entry: Entry, access: str, calibrated: bool) -> dict[Key, float]:
    return recovered(entry, access) if calibrated else worst(entry, access)


def _longest(of: OfSeed, attacks: Iterable[str]) -> list[float | None]:
    lists = [of.lengths[a] for a in attacks if a in of.lengths]
    return [max((n for lengths in lists if (n := lengths[i]) is not None), default=None) for i in range(len(of.forget))]


def _each(entry: Entry, lengths: Callable[[OfSeed], Sequence[float | None]]) -> dict[Key, float]:
    found: Mapping[Key, float | None] = {
        (of.seed, memory): n for of in entry.memories.by_seed for memory, n in zip(of.forget, lengths(of), strict=True)
    }
    return {k: n for k, n in found.items() if n is not None}
