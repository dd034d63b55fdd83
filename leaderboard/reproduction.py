"""Holds a row that was made again against the entry that states it: value by value, memory by memory, and what made them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from .entry import Entry, OfSeed
from .entry_values import Lengths, Number, Values

CLOSE = 1e-5  # relative: numbers are rounded to 6 digits, and libraries differ in the last ones
HEADLINE = ("exact", "opening", "worst length", "leak", "excess", "damage", "collateral", "kept")  # values by which rows are judged
Standing = Literal["equal", "within", "outside", "unknown"]


@dataclass(frozen=True)
class Compared:
    """One value: as stated, with its interval, and as found. `unknown`: it cannot be said, and `why`."""

    name: str
    stated: float | None
    low: float | None
    high: float | None
    found: float | None
    standing: Standing
    why: str = ""

    @property
    def headline(self) -> bool:
        return self.name.partition(",")[0] in HEADLINE

    def __str__(self) -> str:
        interval = f" [{self.low:.4g}, {self.high:.4g}]" if self.low is not None and self.high is not None else ""
        stated, found = ("none" if v is None else f"{v:.4g}" for v in (self.stated, self.found))
        return f"{self.name}: stated {stated}{interval}, found {found}"


@dataclass(frozen=True)
class Matched:
    """The lengths of one attack (or of keep memories after the exact opening) in one seed."""

    seed: int
    attack: str
    equal: int
    of: int  # memories that were asked in both
    apart: int = 0  # tokens: the largest difference
    alone: int = 0  # memories that were asked in one only


@dataclass(frozen=True)
class Reproduction:
    """All of it. `mine` may be of fewer seeds than the entry."""

    values: tuple[Compared, ...]
    lengths: tuple[Matched, ...]
    surroundings: tuple[str, ...]  # what differs in inputs, versions, machine and precision
    weights: dict[int, bool]  # seed -> whether they are the same to the bit

    @property
    def outside(self) -> list[Compared]:
        return [v for v in self.values if v.standing == "outside"]

    @property
    def identical(self) -> bool:
        """Whether everything that can be compared is the same."""
        same = all(v.standing in ("equal", "unknown") for v in self.values) and any(v.standing == "equal" for v in self.values)
        return same and all(m.equal == m.of for m in self.lengths) and all(self.weights.values())

    @property
    def memories(self) -> tuple[int, int]:
        """How many lengths are equal, and of how many."""
        return sum(m.equal for m in self.lengths), sum(m.of for m in self.lengths)


def reproduction(entry: Entry, mine: Entry) -> Reproduction:
    """The entry against the same row made again, of all its seeds or of some."""
    both = {s: (_weights(entry, s), _weights(mine, s)) for s in mine.seeds}
    return Reproduction(
        tuple(_values(entry, mine)),
        tuple(_lengths(entry, mine)),
        tuple(surroundings(entry, mine)),
        {s: a == b for s, (a, b) in both.items() if a and b},
    )


def _weights(entry: Entry, seed: int) -> dict[str, str]:
    """What is told of a seed's weights: one hash, or one for each part."""
    return {key: sha for key, sha in entry.hashes.weights.items() if key.partition("/")[0] == str(seed)}


def numbers(values: Values) -> dict[str, Number]:
    """Every number of a row by a name for people."""
    found = {"exact": values.exact, "opening": values.opening, "worst": values.worst, "worst length": values.worst_length}
    found |= {"verbatim": values.verbatim, "damage": values.damage, "collateral": values.collateral, "kept": values.kept}
    for leak in values.leaks:
        own = {"leak": leak.leak, "recovered": leak.recovered, "recovered from the twin": leak.twin, "excess": leak.excess}
        found |= {f"{name}, {leak.access}": x for name, x in own.items()}
    for task in values.tasks:
        found |= {f"loss, {task.task} {task.metric}": task.loss}
    for a in values.attacks:
        found |= {f"matched, {a.attack}": a.matched, f"gain, {a.attack}": a.gain, f"share recovered, {a.attack}": a.recovered}
    for s in values.severity:
        found |= {f"severity, {s.tokens} tokens": s.share, f"severity over the twin, {s.tokens} tokens": s.over}
    for t in values.relearned:
        found |= {f"matched at step {x.step}, {t.attack} {t.dose}".rstrip(): x.tokens for x in t.steps}
    return found


def surroundings(entry: Entry, mine: Entry) -> Iterator[str]:
    """What differs in inputs, code, versions, machine and precision."""
    for what in ("hashes", "versions", "machine"):
        theirs, own = asdict(getattr(entry, what)), asdict(getattr(mine, what))
        apart = ("models", "weights", *(name for name in LATER if not theirs.get(name)))
        theirs = {name: value for name, value in theirs.items() if name not in apart}
        for name, value in theirs.items():
            if isinstance(value, dict):
                yield from (
                    f"{OF.get(name, '')}{k} {value.get(k)}, here {own[name].get(k)}"
                    for k in {**value, **own[name]}
                    if value.get(k) != own[name].get(k)
                )
            elif value != own[name]:
                yield f"{WORDS.get(name, name)} {value}, here {own[name]}"


LATER = ("attacks", "deepspeed")  # what entries of before do not tell
OF = {"attacks": "code of the attack "}
WORDS = {"source": "source of the method", "dirty": "code with changes of its own:", "base": "base model", "kinds": "versions of stages"}


def _values(entry: Entry, mine: Entry) -> Iterator[Compared]:
    stated, found = numbers(entry.claimed), numbers(mine.claimed)
    places = [entry.seeds.index(s) for s in mine.seeds]
    thresholds = not entry.claimed.calibrated or mine.claimed.calibrated
    for name, number in stated.items():
        needs = name.startswith(("worst", "leak", "recovered", "excess", "share recovered", "severity"))
        if not thresholds and needs:
            yield Compared(name, number.value, number.low, number.high, None, "unknown", "thresholds need the null of more seeds")
        else:
            yield _compared(name, of_seeds(number, places, len(entry.seeds)), found.get(name, Number(None, why="not measured")))


def of_seeds(number: Number, places: Sequence[int], seeds: int) -> Number:
    """A number as some of the seeds give it, with an interval as wide as that of all: their own may be far from the mean."""
    if len(places) == seeds or number.value is None:
        return number
    own = [v for v in (number.by_seed[p] for p in places) if v is not None] if len(number.by_seed) == seeds else []
    if len(own) < len(places):
        return Number(None, why="its seeds are not told apart")
    value = sum(own) / len(own)
    low, high = (v if v is None else v - number.value + value for v in (number.low, number.high))
    return Number(value, low, high, tuple(own), number.count, number.why)


def _compared(name: str, stated: Number, found: Number) -> Compared:
    told = (name, stated.value, stated.low, stated.high, found.value)
    if stated.value is None or found.value is None:
        both = stated.value is None and found.value is None
        return Compared(*told, "unknown" if both or stated.why.startswith("its seeds") else "outside", stated.why or found.why)
    if math.isclose(stated.value, found.value, rel_tol=CLOSE, abs_tol=1e-9):
        return Compared(*told, "equal")
    if stated.low is None or stated.high is None:
        return Compared(*told, "unknown", "no interval is stated")
    slack = CLOSE * max(abs(stated.low), abs(stated.high))
    return Compared(*told, "within" if stated.low - slack <= found.value <= stated.high + slack else "outside")


def _lengths(entry: Entry, mine: Entry) -> Iterator[Matched]:
    theirs = {of.seed: of for of in entry.memories.by_seed}
    for own in mine.memories.by_seed:
        was = theirs[own.seed]
        for attack in was.lengths.keys() & own.lengths.keys():
            yield _matched(own.seed, attack, _by_id(was, was.lengths[attack]), _by_id(own, own.lengths[attack]))
        keep = [dict(zip(of.keep, of.keep_lengths, strict=True)) for of in (was, own)]
        yield _matched(own.seed, "keep memories", *keep)


def _by_id(of: OfSeed, lengths: Lengths) -> dict[str, int | None]:
    return dict(zip(of.forget, lengths, strict=True))


def _matched(seed: int, attack: str, was: dict[str, int | None], now: dict[str, int | None]) -> Matched:
    pairs = [(a, b) for m in was.keys() | now.keys() for a, b in [(was.get(m), now.get(m))]]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    alone = sum((a is None) != (b is None) for a, b in pairs)
    return Matched(seed, attack, sum(a == b for a, b in both), len(both), max((abs(a - b) for a, b in both), default=0), alone)
