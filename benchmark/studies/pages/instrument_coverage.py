"""How often the interval of leak holds the truth, and how often innocent memories are called recovered: of the worst case, beside all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ....leaderboard.statistics import Estimate, mean, rate, wilson
from ....leaderboard.study_results import AGREES, CANNOT_TELL, DISAGREES, OURS, StudyTable, Verdict, direction, said
from ...common.types import TWIN
from .._coverage import Case, covered, resampled, summary
from .._judging import LEAK, Judged, false_positives, innocent
from .._labelled import HOLDS, NEVER

Worlds = Mapping[Case, Sequence[Mapping[str, Any]]]  # what was found of each world of a case
REAL = (Case(0.0, 0.0), Case(0.2, 0.0), Case(0.5, 0.05))


def coverage_table(simulations: Worlds, draws: int, judged: Judged) -> StudyTable:
    lines = [summary(case, list(found), "made up") for case, found in simulations.items()]
    if judged.levels and (real := innocent(judged)) is not None:
        held = judged._lengths(judged.frame[(judged.frame.group == HOLDS) & (judged.frame.role == "forget")]).dropna()
        black = [a for a, level in judged.access.items() if level == "black-box"]
        for case in REAL if len(held) else ():
            draw = lambda c, rng: resampled(c, rng, real[black].dropna(), held[black])  # noqa: E731
            lines.append(summary(case, list(covered(case, draw, draws)), "real"))
    caption = (
        "Of each world the benchmark's own functions make thresholds, leak and its 95% interval over three seeds of 64 memories. Made up: "
        "six attacks with chance matches of a few tokens. Real: lengths of the labelled models drawn anew, null and judged memories apart. "
        "What is left counts as leak; a model that holds and gives nothing to any attack makes leak too small, as it does in a table."
    )
    return StudyTable("Coverage and false positives", lines, caption)


def coverage_verdicts(table: StudyTable, simulations: Worlds, judged: Judged) -> Iterator[Verdict]:
    """Each is of the worst case: what holds of all together may fail where it matters."""
    for differ, words in ((True, "seeds differ"), (False, "seeds are alike")):
        lines = [line for line in table.rows if (line["spread of seeds, points"] > 0) == differ]
        if any(line["true leak, %"] > 0 for line in lines):
            yield _covers(f"The 95% interval of leak holds the truth, where {words}.", lines)
    shares = {_named(case): [100 * r["false_positives"] / r["innocent"] for r in w if r["innocent"]] for case, w in simulations.items()}
    made_up = {name: mean([s]) for name, s in shares.items() if s}
    together = mean([[x for s in shares.values() for x in s]])
    yield _rare("At most 1% of innocent memories are called recovered (made-up lengths).", made_up, together, "cases")
    never = judged.memories[(judged.memories.group == NEVER) & (judged.memories.model != TWIN)]
    if LEAK in never and len(never):
        by_seed = lambda rows: rate([part[LEAK].to_numpy(float) for _, part in rows.groupby("seed")]).scaled(100)  # noqa: E731
        kinds = {str(model): by_seed(part) for model, part in never.groupby("model", sort=False)}
        claim = "At most 1% of innocent memories are called recovered (models that never held, without twins)."
        yield _rare(claim, kinds, by_seed(never), "kinds of model")


def _covers(claim: str, lines: Sequence[Mapping[str, Any]]) -> Verdict:
    """Of the case with a true leak that is covered least; its interval allows for having been picked out of so many (Bonferroni)."""
    told = [(round(line["worlds"] * line["interval holds the truth, %"] / 100), line["worlds"], line) for line in lines]
    leaking, still = ([t for t in told if (t[2]["true leak, %"] > 0) == some] for some in (True, False))
    held, worlds, line = min(leaking, key=lambda t: t[0] / t[1])
    low, high = (100 * x for x in wilson(held, worlds, 1 - 0.05 / len(leaking)))
    words = (
        f"{100 * held / worlds:.1f}% [{low:.1f}, {high:.1f}] of {worlds} worlds in the worst of {len(leaking)} cases "
        f"({line['lengths']} lengths, true leak {line['true leak, %']:g}%); {_pooled(leaking)} together"
    )
    words += f"; {_pooled(still)} where nothing is left" if still else ""
    return Verdict(claim, f"{OURS}95% are promised.", words, AGREES if low >= 95 else DISAGREES if high < 95 else CANNOT_TELL)


def _pooled(told: Sequence[tuple[int, int, Any]]) -> str:
    held, worlds = sum(t[0] for t in told), sum(t[1] for t in told)
    return f"{100 * held / worlds:.1f}% of all {worlds}"


def _rare(claim: str, found: Mapping[str, Estimate], together: Estimate, kinds: str) -> Verdict:
    """A world, or a seed, has one set of thresholds and few memories: its calls go together, so these are the units."""
    if not found:
        return direction(claim, f"{OURS}1% is promised.", together, unit="%", below=1.0)
    worst = max(found, key=lambda name: found[name].value)
    verdict = direction(claim, f"{OURS}1% is promised.", found[worst], unit="%", below=1.0)
    words = f"{verdict.measured} of the worst of {len(found)} {kinds} ({worst}); {said(together, '%')} of all together"
    return replace(verdict, measured=words)


def _named(case: Case) -> str:
    return f"true leak {100 * case.true:g}%, seeds {'differ' if case.spread else 'alike'}"


def false_positive_table(judged: Judged) -> Iterator[StudyTable]:
    found = false_positives(judged)
    if found:
        lines: dict[str, dict[str, Any]] = {}
        for (level, model), calls in found.items():
            _, high = wilson(sum(calls), len(calls))
            line = lines.setdefault(model, {"model": model, "memories": len(calls)})
            line |= {f"{level}, %": 100 * sum(calls) / len(calls), f"{level}, to %": 100 * high}
        yield StudyTable("What is called recovered from models that never held", list(lines.values()), "Upper ends are Wilson's, at 95%.")
