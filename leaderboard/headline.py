"""The first sentence of a report."""

from __future__ import annotations

from ..benchmark.common.types import HELD
from ..benchmark.scoring.score import LEARNT
from .cells import number
from .tables import MainTable


def headline(table: MainTable) -> str:
    """One sentence: who forgets best, with the interval, and who cannot be told apart from it; or why nobody can be named."""
    if not table.notes.learnt:
        return nothing_learnt(table)
    best = next((row for row in table.rows if row.standing == "best"), None)
    if best is None:
        return "No method of this suite kept its quality and could be ranked."
    x = table.ranked(best).scaled(100 if table.calibrated else 1)
    what = f"leaks {number(x.value)}%" if table.calibrated else f"reads {number(x.value)} tokens further than the twin"
    tied = [row.method for row in table.rows if row.standing == "tied"]
    others = f" Not to be told apart from it: {', '.join(tied)}." if tied else ""
    held = f"Among the methods that kept their quality, {best.method} holds back best: it {what}"
    return f"{held} [{number(x.low)}, {number(x.high)}] under {table.access} attacks.{others}"


def nothing_learnt(table: MainTable) -> str:
    """What is said in place of a winner where the held model had little to forget."""
    exact = next(row for row in table.rows if row.method == HELD).recovery.exact
    return (
        f"Nothing was learnt: after injection the exact opening brings back {number(100 * exact.value)}% of the forget memories "
        f"(at least {100 * LEARNT:.0f}% are needed), so no method can be said to have forgotten and none is named best. Inject more often "
        "(injection.occurrences) or with a higher learning rate (injection.lr)."
    )
