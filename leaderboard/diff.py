"""Two runs compared: is the new one no worse than the old one? docs/regression-testing.md says what each word means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from ..benchmark.common.errors import UserError, unknown
from ..benchmark.common.types import HELD, HORIZON
from .changes import Change, changes
from .comparable import alike, comparable, same_memories
from .paired import Paired, counted, over_documents, over_pairs
from .side import Side, cut
from .statistics import Estimate, holm
from .tables import RETRAIN

Verdict = Literal["better", "no worse", "worse", "cannot tell", "not judged"]
ALPHA = 0.025  # of a one-sided test, as a two-sided interval of 95% has on each side
MARGINS = {"leak": 5.0, "tokens": 2.0, "exact": 5.0, "damage": 1.0, "collateral": 10.0, "cost": 10.0}
SAME = "all readings are the same"
UNITS = {"leak": "points", "tokens": "tokens", "exact": "points", "damage": "points", "collateral": "points", "cost": "%", "seconds": "%"}


@dataclass(frozen=True)
class Row:
    """One measure of one method. Less is better in every measure."""

    method: str  # as the new run names it
    measure: str  # leak and tokens with their access level: leak:black-box
    old: float
    new: float
    difference: Estimate  # new minus old, in the unit of the measure
    margin: float  # a true difference up to it is accepted; NaN: the measure is only shown
    p: float  # one-sided, of a difference up to the margin, after Holm; NaN where nothing was tested
    verdict: Verdict
    why: str = ""  # where the verdict is not read from the interval

    @property
    def unit(self) -> str:
        return UNITS[self.measure.partition(":")[0]]


@dataclass(frozen=True)
class Diff:
    """All rows, the memories that changed, and what else differs between the runs."""

    suite: str
    pairs: tuple[tuple[str, str], ...]  # (old, new) method
    seeds: tuple[int, ...]
    rows: list[Row]
    changes: list[Change] = field(repr=False)
    notes: list[str] = field(default_factory=list)

    @property
    def worse(self) -> list[Row]:
        return [r for r in self.rows if r.verdict == "worse"]

    @property
    def exit(self) -> int:
        """0: nothing is significantly worse; 1: something is."""
        return 1 if self.worse else 0


def margins_from(given: Iterable[str]) -> dict[str, float]:
    """`measure=number` over the defaults; a measure may name its access level, as leak:weights."""
    found = dict(MARGINS)
    for item in given:
        name, _, text = item.partition("=")
        if name.partition(":")[0] not in UNITS:
            raise unknown("measure", name, UNITS)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"margin {item!r}: expected measure=number with a number of at least 0, for example leak=5.")
        found[name] = value
    return found


def compare(
    old: Side,
    new: Side,
    methods: Sequence[str] = (),
    renamed: Mapping[str, str] | None = None,
    margins: Mapping[str, float] | None = None,
) -> Diff:
    """Compare the methods that both runs have, or those named (as the new run calls them); `renamed` maps an old name to a new one.

    UserError where the runs cannot be compared.
    """
    notes = comparable(old, new)
    pairs = _pairs(old, new, methods, renamed or {})
    seeds = tuple(s for s in new.seeds if s in old.seeds)
    for a, b in pairs:
        same_memories(old, new, a, b, seeds)
    if not methods and not renamed:
        notes += [f"{name} was not compared: only the {where} run has it." for name, where in _alone(old, new)]
    measured = [m for a, b in pairs for m in _Compared(old, new, a, b, seeds, margins or MARGINS).rows()]
    found = [c for a, b in pairs for c in changes(old, new, a, b, seeds)]
    return Diff(new.suite, tuple(pairs), seeds, _judged(measured), found, notes)


def _pairs(old: Side, new: Side, methods: Sequence[str], renamed: Mapping[str, str]) -> list[tuple[str, str]]:
    """(old, new) names of what is compared; held and retrained models only where they are named."""
    there, then = (set(run.opening.index.get_level_values("method")) for run in (new, old))
    wanted = list(dict.fromkeys([*methods, *renamed.values()])) or [m for m in new.methods if m not in (HELD, RETRAIN) and m in then]
    was = {b: a for a, b in renamed.items()}
    pairs = [(was.get(m, m), m) for m in wanted]
    for which, names, known in (("new", [b for _, b in pairs], there), ("old", [a for a, _ in pairs], then)):
        for name in names:
            if name not in known:
                raise unknown(f"method of the {which} run", name, known)
    if not pairs:
        raise UserError("These runs cannot be compared: they have no method in common. Name two with --as OLD=NEW.")
    return pairs


def _alone(old: Side, new: Side) -> list[tuple[str, str]]:
    return [(m, "old") for m in old.methods if m not in new.methods] + [(m, "new") for m in new.methods if m not in old.methods]


@dataclass(frozen=True)
class _Measured:
    """A row that is not judged yet."""

    method: str
    measure: str
    old: float
    new: float
    paired: Paired
    margin: float
    why: str = ""


@dataclass(frozen=True)
class _Compared:
    """One method in both runs."""

    old: Side
    new: Side
    before: str
    after: str
    seeds: tuple[int, ...]
    margins: Mapping[str, float]

    def rows(self) -> list[_Measured]:
        same = alike(self.old, self.new, self.before, self.after)
        found = [*self._leaks(), *self._tokens(), self._exact(), self._damage(), self._collateral(), *self._costs()]
        measured = [m for m in found if not (math.isnan(m.old) and math.isnan(m.new))]
        return [replace(m, paired=counted([0.0]), why=SAME) if same and m.paired.tested else m for m in measured]

    def _made(self, measure: str, new: list[pd.Series], old: list[pd.Series], scale: float = 1.0) -> _Measured:
        """From one series per seed of each side, on the same memories."""
        a, b = (float(pd.concat(x).mean()) * scale for x in (new, old))
        return self._row(measure, b, a, over_pairs(new, old, scale))

    def _row(self, measure: str, old: float, new: float, paired: Paired, why: str = "") -> _Measured:
        margin = self.margins.get(measure, self.margins.get(measure.partition(":")[0], math.nan))
        return _Measured(self.after, measure, old, new, paired, margin, why)

    def _pair(self, table: str, seed: int, twins: bool = False) -> tuple[Any, Any]:
        """A table of both sides for one seed, by memory; of the twins in place of the methods."""
        names = (self.new.twin, self.old.twin) if twins else (self.after, self.before)
        new, old = (cut(getattr(run, table), name, seed) for run, name in zip((self.new, self.old), names, strict=True))
        return new, old.reindex(new.index)

    def _held(self, table: str, seed: int) -> Any:
        """Memories that the held models of both runs repeat."""
        held = [cut(getattr(run, table), HELD, seed) for run in (self.new, self.old)]
        return held[0].index[(held[0] >= HORIZON) & (held[1].reindex(held[0].index) >= HORIZON)]

    def _leaks(self) -> Iterable[_Measured]:
        for level in self.new.calls.columns.intersection(self.old.calls.columns, sort=False):
            new, old = [], []
            for seed in self.seeds:
                mine, twins = self._pair("calls", seed), self._pair("calls", seed, twins=True)
                frame = pd.DataFrame({"a": mine[0][level], "b": mine[1][level], "t": twins[0][level], "u": twins[1][level]}).dropna()
                frame = frame[frame.index.isin(self._held("opening", seed))]
                # Equal twins cancel: then both are plain shares, of which the paired interval for shares is made.
                equal = bool((frame.t == frame.u).all())
                new.append(frame.a if equal else frame.a - frame.t)
                old.append(frame.b if equal else frame.b - frame.u)
            yield self._made(f"leak:{level}", new, old, 100)

    def _tokens(self) -> Iterable[_Measured]:
        for level in self.new.access:
            attacks, new, old = self.new.up_to(level), [], []
            for seed in self.seeds:
                a, b = (x[attacks] for x in self._pair("lengths", seed))
                both = a.notna() & b.notna()
                there = both.any(axis=1)
                new.append(a.where(both).max(axis=1)[there])
                old.append(b.where(both).max(axis=1)[there])
            yield self._made(f"tokens:{level}", new, old)

    def _exact(self) -> _Measured:
        pairs = [self._pair("opening", seed) for seed in self.seeds]
        there = [(a[a.notna() & b.notna()] >= HORIZON, b[a.notna() & b.notna()] >= HORIZON) for a, b in pairs]
        return self._made("exact", [a.astype(float) for a, _ in there], [b.astype(float) for _, b in there], 100)

    def _collateral(self) -> _Measured:
        new, old = [], []
        for seed in self.seeds:
            a, b = self._pair("keep", seed)
            held = self._held("keep", seed)
            new.append((a[a.index.isin(held)] < HORIZON).astype(float))
            old.append((b[b.index.isin(held)] < HORIZON).astype(float))
        return self._made("collateral", new, old, 100)

    def _damage(self) -> _Measured:
        """Damage of one seed is a loss in % of the twin's value; documents give its error where there is one seed."""
        parts = []
        for seed in self.seeds:
            four = [run.quality.get((m, seed)) for run, name in ((self.new, self.after), (self.old, self.before)) for m in (name, run.twin)]
            if all(four):
                parts.append(_damages(*four))  # type: ignore[arg-type]
        new, old, errors = (list(x) for x in zip(*parts, strict=True)) if parts else ([], [], [])
        a, b = (sum(x) / len(x) if x else math.nan for x in (new, old))
        broken = "the new value is no finite number" if parts and not math.isfinite(a) and math.isfinite(b) else ""
        paired = over_documents([x - y for x, y in zip(new, old, strict=True)], errors)
        return self._row("damage", b, a, paired, broken)

    def _costs(self) -> Iterable[_Measured]:
        pairs = [(self.new.costs.get((self.after, s)), self.old.costs.get((self.before, s))) for s in self.seeds]
        there = [(a, b) for a, b in pairs if a and b]
        if there:
            flops = all(x.flops > 0 for pair in there for x in pair)
            for measure, name in (("cost", "flops" if flops else "tokens"), ("seconds", "seconds")):
                new, old = ([float(getattr(pair[i], name)) for pair in there] for i in (0, 1))
                ratios = [100 * (a / b - 1) if b else math.nan for a, b in zip(new, old, strict=True)]
                yield self._row(measure, sum(old) / len(old), sum(new) / len(new), counted(ratios))


def _damages(new: Any, new_twin: Any, old: Any, old_twin: Any) -> tuple[float, float, float]:
    """Damage of the new and the old model in %, and the standard error of the difference over documents; NaN where they are not paired."""
    sign = -1 if new.higher_is_better else 1
    factors = [100 * sign / t.value if t.value > 0 else math.nan for t in (new_twin, old_twin)]
    values = [f * (q.value - t.value) for f, q, t in ((factors[0], new, new_twin), (factors[1], old, old_twin))]
    if new.task_hash != old.task_hash or len(new.documents) != len(old.documents) or len(new.documents) < 2:
        return values[0], values[1], math.nan
    apart = factors[0] * pd.Series(new.documents, dtype=float) - factors[1] * pd.Series(old.documents, dtype=float)
    return values[0], values[1], float(apart.std(ddof=1) / math.sqrt(len(apart)))


def _judged(measured: list[_Measured]) -> list[Row]:
    """Verdicts, with p-values adjusted over all that was tested: one family for worse, one for better."""
    tested = [i for i, m in enumerate(measured) if m.paired.tested and not math.isnan(m.margin)]
    worse = dict(zip(tested, holm([measured[i].paired.p_above(measured[i].margin) for i in tested]), strict=True))
    better = dict(zip(tested, holm([measured[i].paired.p_below(0.0) for i in tested]), strict=True))
    rows = []
    for i, m in enumerate(measured):
        verdict = _verdict(m, worse.get(i, 0.0), better.get(i, 0.0))
        rows.append(Row(m.method, m.measure, m.old, m.new, m.paired.estimate, m.margin, worse.get(i, math.nan), verdict, m.why))
    return rows


def _verdict(m: _Measured, worse: float, better: float) -> Verdict:
    low, high = m.paired.interval(0.95)
    if math.isnan(m.margin):
        return "not judged"
    if not math.isfinite(m.new) and math.isfinite(m.old):
        return "worse" if m.why else "cannot tell"
    if low > m.margin and worse <= ALPHA:
        return "worse"
    if high < 0 and better <= ALPHA:
        return "better"
    return "no worse" if high <= m.margin else "cannot tell"
