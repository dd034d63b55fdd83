"""Makes the entry of one method from the results of a suite and the table made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import pandas as pd

from ..benchmark.common.errors import unknown
from ..benchmark.common.strict import visible
from ..benchmark.common.types import HELD, Excerpt, Results
from ..benchmark.scoring.score import Score
from .attacks import AttackCell
from .entry import SCHEMA, About, Entry, Evaluation, Memories, OfSeed, Point, Spent, Text
from .entry_values import Attack, CostOf, Flag, Leak, Lengths, Number, Relearned, Relearning, Severity, Task, Values
from .severity import AT_LEAST
from .statistics import Estimate, by_seed, rate
from .tables import MainTable, MethodRow

DIGITS = 6  # significant ones of every number


def entry_of(results: Results, table: MainTable, method: str, about: About) -> Entry:
    """The entry of one method of a suite, from its results and the table made of them."""
    row = next((r for r in table.rows if r.method == method), None)
    if row is None:
        raise unknown("method with a row", method, [r.method for r in table.rows])
    score = Score(results.records, results.twin, results.diagnostics)
    told = {f.name: getattr(about, f.name) for f in fields(About)}
    return Entry(
        **told,
        schema=SCHEMA,
        method=method,
        doc=results.docs.get(method, ""),
        seeds=tuple(results.seeds),
        claimed=values_of(row, table, score),
        memories=_memories(results, score, method),
        cost=tuple(
            Spent(c.seed, rounded(c.seconds), c.tokens, rounded(c.flops), rounded(c.peak_mib)) for c in results.costs if c.method == method
        ),
        trajectory=tuple(
            Evaluation(e.seed, e.step, rounded(e.exact), rounded(e.held_out)) for e in results.evaluations if e.method == method
        ),
        excerpts=tuple(_text(e, ("base", HELD, results.twin, method)) for e in results.excerpts),
    )


def points_of(results: Results, table: MainTable, method: str) -> tuple[Point, ...]:
    """The operating curve of a method, from a run with strengths: the weakest setting first."""
    uncalibrated = "the null is too small for thresholds"
    rows = {row.method: row for row in table.rows}
    found = [p for p in results.points if p.method == method and p.row in rows]
    return tuple(
        Point(
            field=p.field,
            value=p.value,
            tokens=number(rows[p.row].recovery.worst_length),
            leak=number(rows[p.row].recovery.leaks[0].leak, uncalibrated),
            damage=number(rows[p.row].utility.damage),
            collateral=number(rows[p.row].utility.collateral),
        )
        for p in sorted(found, key=lambda p: p.strength)
    )


def values_of(row: MethodRow, table: MainTable, score: Score) -> Values:
    """The numbers of a row. This is the one place that reads rows of the table."""
    uncalibrated = "the null is too small for thresholds"
    back, left = row.recovery, row.utility
    return Values(
        exact=number(back.exact),
        opening=number(back.opening),
        worst=number(back.worst),
        worst_length=number(back.worst_length),
        verbatim=number(back.verbatim, "no attack asks with windows"),
        leaks=tuple(
            Leak(
                c.access,
                number(c.leak, uncalibrated),
                number(mine, uncalibrated),
                number(twin, uncalibrated),
                number(c.excess),
                rounded(c.p),
            )
            for c in back.leaks
            for mine, twin in [_sides(score, row.method, c.access)]
        ),
        damage=number(left.damage, "the yardstick was not measured"),
        damage_of=table.notes.damage_of,
        tasks=tuple(Task(t.task, t.metric, t.unit, number(t.loss), number(t.damage)) for t in left.tasks),
        collateral=number(left.collateral, "the held model repeats no hidden keep memory"),
        kept=number(left.kept),
        attacks=tuple(_attack(a, uncalibrated) for a in back.attacks),
        flags=tuple(
            Flag(f.flag.mark, f.flag.name, f.raised, {str(s): x for s, v in f.numbers.items() if (x := rounded(v)) is not None})
            for f in row.flags
        ),
        costs=tuple(CostOf(c.quantity, rounded(c.mean), rounded(c.ratio)) for c in row.costs),
        learnt=table.notes.learnt,
        severity=tuple(
            Severity(n, number(own), number(over)) for n, own, over in zip(AT_LEAST, back.severity.own, back.severity.shares, strict=True)
        ),
        relearned=_relearned(row, table.twin),
    )


def _relearned(row: MethodRow, twin: MethodRow) -> tuple[Relearned, ...]:
    theirs = {(t.attack, t.dose): t.steps for t in twin.further.trajectories}
    nothing = rate([])
    return tuple(
        Relearned(
            t.attack,
            t.dose,
            tuple(
                Relearning(step, number(x), number(theirs.get((t.attack, t.dose), {}).get(step, nothing), "the twin was not relearned"))
                for step, x in t.steps.items()
            ),
        )
        for t in row.further.trajectories
        if t.steps
    )


def _text(e: Excerpt, methods: Sequence[str]) -> Text:
    said = {m: visible(e.said[m]) for m in methods if m in e.said}
    return Text(e.memory, e.role, e.seed, visible(e.prompt), visible(e.truth), said)


def _attack(c: AttackCell, why: str) -> Attack:
    lengths = number(c.matched), number(c.gain), rounded(c.p)
    return Attack(c.attack, c.access, *lengths, number(c.recovered, why), rounded(c.recovered_p), c.diagnostic)


def number(x: Estimate, why: str = "not measured") -> Number:
    """An estimate rounded; `why` it has no value, if it has none."""
    value, low, high = (rounded(v) for v in (x.value, x.low, x.high))
    said = why if value is None else "too few values for an interval" if low is None or high is None else ""
    return Number(value, low, high, tuple(rounded(v) for v in x.by_seed), x.count, said)


def rounded(x: float) -> float | None:
    """A number to 6 significant digits; what is none becomes null."""
    return float(f"{x:.{DIGITS}g}") + 0.0 if math.isfinite(x) else None


def _sides(score: Score, method: str, access: str) -> tuple[Estimate, Estimate]:
    """Shares recovered from the method and from the twin, whose difference is the leak."""
    if not score.calibrations[access].possible:
        return rate([]), rate([])
    pair = score.recovered_pair(method, access)
    return rate(by_seed(pair["mine"])), rate(by_seed(pair["twin"]))


def _memories(results: Results, score: Score, method: str) -> Memories:
    thresholds = {
        level: {a: t for a in c.quantiles if (t := rounded(c.threshold(a))) is not None}
        for level, c in score.calibrations.items()
        if c.possible
    }
    asked = score.lengths(method)
    names = [a for a in score.attacks if asked[a].notna().any()]
    return Memories(
        {a: score.attacks[a] for a in names},
        tuple(a for a in results.diagnostics if a in names),
        thresholds,
        tuple(_of_seed(score, method, seed, names) for seed in results.seeds),
    )


def _of_seed(score: Score, method: str, seed: int, names: Sequence[str]) -> OfSeed:
    lengths, openings = score.lengths(method), score.opening(method)
    forget = sorted(m for s, m in lengths.index if s == seed)

    def of(series: pd.Series, ids: Sequence[str]) -> Lengths:
        found = series.reindex(pd.MultiIndex.from_product([[seed], ids], names=["seed", "memory"]))
        return tuple(None if math.isnan(v) else int(v) for v in found)

    keep = sorted({r.memory for r in score.records if (r.method, r.seed, r.role, r.shown) == (method, seed, "keep", False)})
    kept = {m: score.opening(m, "keep") for m in (method, HELD)}
    return OfSeed(
        seed,
        tuple(forget),
        {a: of(lengths[a], forget) for a in names},
        of(openings, forget),
        of(score.opening(HELD), forget),
        {level: of(score.worst(score.twin, level), forget) for level in score.levels},
        tuple(keep),
        of(kept[method], keep),
        of(kept[HELD], keep),
    )
