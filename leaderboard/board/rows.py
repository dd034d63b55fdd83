"""The rows of the board as plain data for its templates: what a table says of each entry, how it sorts, and where it links to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...benchmark.common.budget import Budget
from ..cells import MISSING, number
from ..entry import Entry
from ..entry_of import number as rounded_number
from ..entry_values import Number, Values
from ..severity import beyond, curve_beyond, in_words, sparkline
from .ranking import ANY, REFERENCES, Ranking, Stand, believed, budget_of, leak_at, twin, words, worst
from .shelf import by_track

DAMAGES, COLLATERALS = (2.0, 5.0, 10.0, ANY), (10.0, 25.0, 50.0, ANY)  # budgets that a reader may choose beside the track's

FIGURES = "survival"  # folder beside the README


@dataclass(frozen=True)
class Shown:
    """A number as a cell shows it. `value` is what the column sorts by; null goes last."""

    text: str
    interval: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Survival:
    """The same at every length, as a small figure."""

    svg: str  # empty where the row and the twin share no memory
    words: str
    file: str  # the figure for a page that takes no markup, from the folder of the README
    value: float | None  # what the column sorts by: the sum over lengths, in tokens


@dataclass(frozen=True)
class Row:
    """One entry in a table of the board."""

    entry: Entry
    stand: Stand
    excess: dict[str, Shown]  # by access level, tokens
    leak: Shown  # % at the level that the track is ranked by
    severity: tuple[Shown, ...]  # % of memories beyond the twin's, for each length of AT_LEAST
    survival: Survival
    damage: Shown
    collateral: Shown
    claimed: Shown  # what the row is ranked by, as the author says
    verified: Shown  # the same as somebody found

    @property
    def kind(self) -> str:
        """Of the table that the row belongs to."""
        return "ranked" if self.stand.place else "reference" if self.entry.method in REFERENCES else "unranked"

    @property
    def page(self) -> str:
        """The file of the row's page, from the site's root."""
        return f"tracks/{self.entry.track}/rows/{self.entry.name}.html"

    @property
    def checked(self) -> list[str]:
        """The level at which somebody verified the row, and the date."""
        found = self.entry.verified
        return [found.level, found.date] if found else ["claimed only"]


@dataclass(frozen=True)
class Track:
    """A track with its rows in the order of the board."""

    name: str
    ranking: Ranking
    access: str  # the level that it is ranked by: the weakest attacker's
    budget: Budget
    rows: tuple[Row, ...]

    @property
    def limits(self) -> tuple[str, str]:
        """The budget of damage and of collateral, as words."""
        return words(self.budget)

    def of_kind(self, kind: str) -> list[Row]:
        return [r for r in self.rows if r.kind == kind]


def tracks(entries: Iterable[Entry]) -> list[Track]:
    """Every track of these entries, ranked by its weakest attacker within its budgets."""
    return [_track(name, Ranking(found)) for name, found in by_track(entries).items()]


def _track(name: str, ranking: Ranking) -> Track:
    access, budget = ranking.levels[0], budget_of(ranking.entries)
    return Track(name, ranking, access, budget, tuple(_row(s, ranking, access) for s in ranking.stands(access, budget)))


def _row(stand: Stand, ranking: Ranking, access: str) -> Row:
    entry, values = stand.entry, believed(stand.entry)

    def ranked(found: Values) -> Shown:
        return shown(cell.excess if (cell := leak_at(found, access)) else None)

    severe = tuple(shown(x, 100) for x in severity(entry, access))
    return Row(
        entry,
        stand,
        {level: shown(ranking.value(entry, level)) for level in ranking.levels},
        shown(cell.leak if (cell := leak_at(values, access)) else None, 100),
        severe,
        survival(entry, access, [x.text for x in severe]),
        shown(values.damage),
        shown(values.collateral),
        ranked(entry.claimed),
        ranked(entry.verified.values) if entry.verified else shown(None),
    )


def shown(x: Number | None, factor: float = 1.0, digits: int = 1) -> Shown:
    """Value and interval times `factor`."""
    if x is None or x.value is None:
        return Shown(MISSING)
    interval = "" if x.low is None or x.high is None else f"[{number(x.low * factor, digits)}, {number(x.high * factor, digits)}]"
    return Shown(number(x.value * factor, digits), interval, x.value * factor)


def severity(entry: Entry, access: str) -> tuple[Number, ...]:
    """Shares of the forget memories of which at least 16, 32 and all 64 tokens come back, minus the twin's, with intervals over seeds.

    As the entry's values say; one of before they did, or that was attacked at other levels, has them from its memories.
    """
    values = believed(entry)
    if values.severity and values.leaks[0].access == access:
        return tuple(s.over for s in values.severity)
    return tuple(rounded_number(x) for x in beyond(*_both(entry, access)))


def survival(entry: Entry, access: str, percents: Sequence[str]) -> Survival:
    """The curve of the entry's memories; `percents` are the row's at the lengths that have a column."""
    curve = curve_beyond(*_both(entry, access))
    words = in_words(percents)
    file = f"{FIGURES}/{entry.track}/{entry.name}.svg"
    return Survival(sparkline(curve, words), words, file, round(float(curve.sum()), 3) if np.isfinite(curve).all() else None)


def _both(entry: Entry, access: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Longest matches (tokens) of the memories that the row and the twin were both asked about: an array per seed of each."""
    mine, theirs = worst(entry, access), twin(entry, access)
    shared = [[k for k in sorted(mine.keys() & theirs.keys()) if k[0] == seed] for seed in entry.seeds]
    row, twins = ([np.array([of[k] for k in keys]) for keys in shared if keys] for of in (mine, theirs))
    return row, twins


def rank_choices(found: Sequence[Track]) -> dict[str, dict[str, dict[str, str]]]:
    """Track/name -> access level -> "damage/collateral" budgets -> rank, or why there is none: for every choice that the page offers."""
    ranks: dict[str, dict[str, dict[str, str]]] = {}
    for track in found:
        for level in track.ranking.levels:
            for budget in choices(track):
                for stand in track.ranking.stands(level, budget):
                    of_entry = ranks.setdefault(f"{track.name}/{stand.entry.name}", {}).setdefault(level, {})
                    of_entry["/".join(words(budget))] = stand.rank or stand.why
    return ranks


def choices(track: Track) -> list[Budget]:
    """Every pair of budgets that a reader may choose; the track's own are among the parts."""
    damages, collaterals = ({*usual, own} for usual, own in ((DAMAGES, track.budget.damage), (COLLATERALS, track.budget.collateral)))
    return [Budget(d, c) for d in sorted(damages) for c in sorted(collaterals)]
