"""The first sentence of a report, and what it says about what tells no two methods apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..benchmark.common.types import HELD
from ..benchmark.scoring.calibration import FEWEST_TOKENS
from ..benchmark.scoring.score import LEARNT
from .cells import number
from .dead_weight import DeadWeight
from .tables import MainTable
from .units import TOKENS, Unit


def headline(table: MainTable) -> str:
    """One sentence: who forgets best, with the interval, and who cannot be told apart from it; or why nobody can be named."""
    if not table.notes.learnt:
        return nothing_learnt(table)
    best = next((row for row in table.rows if row.standing == "best"), None)
    if best is None:
        return f"No method of this suite stayed within the budgets ({table.ranking.budget}) and could be ranked."
    x = table.ranked(best)
    tied = [row.method for row in table.rows if row.standing == "tied"]
    others = f" Not to be told apart from it: {', '.join(tied)}." if tied else ""
    held = f"Among the methods within the budgets ({table.ranking.budget}), {best.method} holds back best: "
    than = " more than from the twin" if table.twin.method else ""
    what = f"on average {number(x.value)} [{number(x.low)}, {number(x.high)}] {table.unit.long}{than} come back"
    return f"{held}{what} under {table.access} attacks.{others}"


def nothing_learnt(table: MainTable) -> str:
    """What is said in place of a winner where the held model had little to forget."""
    exact = next(row for row in table.rows if row.method == HELD).recovery.exact
    found = f"the exact opening brings back {number(100 * exact.value)}% of the forget memories (at least {100 * LEARNT:.0f}% are needed)"
    so = "so no method can be said to have forgotten and none is named best."
    if not table.notes.injected:
        return (
            f"The held model does not know these memories: {found}, {so} Is it the model that was trained on this set, "
            "and are the memories asked as they were trained on?"
        )
    more = "Inject more often (injection.occurrences) or with a higher learning rate (injection.lr)."
    return f"Nothing was learnt: after injection {found}, {so} {more}"


@dataclass(frozen=True)
class Remark:
    """A sentence, and the names that it is about."""

    summary: str
    names: tuple[str, ...]


def remarks(found: DeadWeight) -> list[Remark]:
    """Dead weight: attacks that add nothing to others, memories that come back from every method or from none."""
    every = [
        Remark(f"{len(found.attacks)} of {found.attack_count} attacks read nowhere further than all others.", found.attacks),
        Remark(f"{len(found.always)} of {found.memory_count} forget memories are lost by no method.", _memories(found.always)),
        Remark(f"{len(found.never)} of {found.memory_count} forget memories are lost by every method.", _memories(found.never)),
    ]
    return [remark for remark in every if remark.names]


def dead_weight_rule(access: str, unit: Unit = TOKENS) -> str:
    """What the remarks mean."""
    return (
        "What tells no two methods apart. An attack is named if from no row and at no access level it alone reads furthest into some "
        "memory, so that without it no length would be another; each is judged by itself, so of two that do the same both are named. A "
        f"memory is lost by a method unless {FEWEST_TOKENS} {unit.long} more of it than from the twin come back under {access} attacks; "
        "references and collapsed methods are left out."
    )


def _memories(found: Sequence[tuple[int, str]]) -> tuple[str, ...]:
    seeds = dict.fromkeys(seed for seed, _ in found)
    return tuple(f"seed {seed}: {', '.join(name for s, name in found if s == seed)}" for seed in seeds)
