"""The fresh-memory audit: the row is run on passages that were never published, and compared with the same on the published ones.

A method that knows the public file (its texts, or what was tuned on them) does better there than on passages that nobody has seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ...leaderboard.entry_of import values_of
from ...leaderboard.entry_values import Number, Values
from ...leaderboard.tables import main_table
from ..common.errors import UserError
from ..common.types import HELD
from ..running.assemble import results
from ..scoring.score import Score
from ..suites.config import Suite
from ..texts.memories import PASSAGES, largest_per_role, load_memories
from ..texts.neardup import overlap
from .levels import Case, Finding
from .rerun import again, place
from .retrain import not_allowed
from .row import Row, row_in

RUN = 8  # words in a row that a fresh passage may not share with a published one
WHAT = "fresh memories"


@dataclass(frozen=True)
class Sides:
    """The same measure on fresh and on published passages. More of it is worse."""

    name: str
    unit: str
    fresh: Number
    published: Number
    trainings: bool = True  # whether the intervals know how much two trainings differ: those over documents of one seed do not

    @property
    def difference(self) -> tuple[float, float, float] | None:
        """Fresh minus published with its 95% interval, made of the two (MOVER; Zou & Donner 2008, Statistics in Medicine 27:1693)."""
        a, b = self.fresh, self.published
        if a.value is None or b.value is None or a.low is None or a.high is None or b.low is None or b.high is None:
            return None
        value = a.value - b.value
        low = value - math.hypot(a.value - a.low, b.high - b.value)
        return value, low, value + math.hypot(a.high - a.value, b.value - b.low)

    @property
    def better_on_published(self) -> bool:
        return self.trainings and self.difference is not None and self.difference[1] > 0

    def finding(self) -> Finding:
        if self.difference is None:
            return Finding(self.name, None, f"{self._both()}; without intervals nothing can be said of their difference")
        value, low, high = self.difference
        said = f"{self._both()}: difference {value:+.3g} [{low:+.3g}, {high:+.3g}] {self.unit}"
        if not self.trainings:
            return Finding(self.name, None, f"{said}, over documents; one seed does not tell how much two trainings differ")
        return Finding(self.name, not self.better_on_published, said)

    def _both(self) -> str:
        fresh, published = ("none" if x.value is None else f"{x.value:.3g} [{x.low}, {x.high}]" for x in (self.fresh, self.published))
        return f"fresh {fresh}, published {published}"


def check(case: Case) -> Iterator[Finding]:
    """Run the row on the verifier's passages; and on as many published ones, unless the published row is of that size."""
    if why := not_allowed(case):
        yield Finding(WHAT, False, why)
        return
    try:
        suite, said = _fresh(case)
        with place(case.options) as folder:
            fresh = again(case.bundle, suite, folder / "fresh", case.options)
            same_size = suite.per_role == case.suite.per_role and fresh.suite.seeds == case.bundle.info.seeds
            smaller = replace(suite, memories=case.suite.memories)
            published = row_in(case.bundle, case.suite) if same_size else again(case.bundle, smaller, folder / "published", case.options)
            yield Finding(WHAT, True, said + ("" if same_size else "; the published side was run again with as many"))
            yield from _compared(case, fresh, published)
    except UserError as error:
        yield Finding(WHAT, False, str(error))


def _fresh(case: Case) -> tuple[Suite, str]:
    """The suite on the verifier's passages: as many of each role as their file allows, at most as many as the track has."""
    file = Path(case.options.memories or "")
    memories = load_memories(file)
    public = load_memories(PASSAGES if case.suite.memories == "passages" else case.suite.memories)
    known = [
        m.id for m, share in zip(memories, overlap([m.text for m in memories], [p.text for p in public], RUN), strict=True) if share > 0
    ]
    if known:
        raise UserError(f"{file}: {known[0]} shares a run of {RUN} words with a published passage ({len(known)} such); expected fresh ones")
    per_role = min(case.suite.per_role, largest_per_role(memories))
    if not per_role:
        raise UserError(f"{file} has {len(memories)} memories, too few for three roles; give each domain a multiple of three")
    seeds = case.options.seeds or case.bundle.info.seeds
    said = f"{len(memories)} passages, {per_role} of each role (the track has {case.suite.per_role}), seeds {', '.join(map(str, seeds))}"
    return replace(case.suite, memories=str(file.resolve()), per_role=per_role), said


def _compared(case: Case, fresh: Row, published: Row) -> Iterator[Finding]:
    mine, theirs = values(fresh), values(published)
    sides = _sides(mine[fresh.method], theirs[published.method])
    yield from (s.finding() for s in sides)
    ceiling = _sides(mine[HELD], theirs[HELD])[0]
    yield Finding("the held model on both", None, replace(ceiling, name="").finding().seen + "; so much there was to forget")
    yield verdict(case.bundle.entry.method, sides, ceiling)


def _sides(fresh: Values, published: Values) -> list[Sides]:
    mine, theirs = fresh.leaks[0], published.leaks[0]
    leak = Sides(f"leak, {mine.access}", "", mine.leak, theirs.leak)
    if not (mine.leak and theirs.leak):  # the null is too small for thresholds
        leak = Sides(f"excess, {mine.access}", "tokens", mine.excess, theirs.excess)
    collateral = Sides("collateral", "points", fresh.collateral, published.collateral)
    return [leak, collateral, Sides("damage", "%", fresh.damage, published.damage, trainings=len(fresh.damage.by_seed) > 1)]


def verdict(method: str, sides: list[Sides], ceiling: Sides) -> Finding:
    better = [s.name.partition(",")[0] for s in sides if s.better_on_published]
    if better:
        also = "" if not ceiling.better_on_published else " The held model repeats fresh passages better too, which may be all of it."
        return Finding("verdict", False, f"{method} does better on the published file than on fresh passages ({', '.join(better)}).{also}")
    main = sides[0]
    if main.difference is None:
        return Finding("verdict", None, "too few passages to tell")
    value, low, _ = main.difference
    reach = f"a difference in {main.name.partition(',')[0]} of less than {value - low:.2g} {main.unit}".rstrip()
    return Finding(
        "verdict",
        True,
        f"{method} does not do better on the published file, so far as this many passages can tell: {reach} could be missed",
    )


def values(row: Row) -> dict[str, Values]:
    """The numbers of the method and of the held model."""
    found = results(row)
    table, score = main_table(found), Score(found.records, found.twin, found.diagnostics)
    return {r.method: values_of(r, table, score) for r in table.rows}
