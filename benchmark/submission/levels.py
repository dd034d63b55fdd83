"""The levels of verification, the cheapest first. Each is a module of this folder with `check(case)`, which yields findings.

A level is only reached where all before it agreed: so what is wrong is named by the cheapest level that can see it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...leaderboard.entry import LEVELS
from ..common.errors import UserError, unknown
from ..common.frozen import Frozen
from ..common.progress import Progress, silent
from ..suites.config import Suite
from .bundle import Bundle


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: whether it agreed (None: it was not looked at, and why), and what was seen."""

    what: str
    agreed: bool | None
    seen: str = ""


@dataclass(frozen=True)
class Options:
    """What the verifier says. Levels read what concerns them."""

    store: Path = Path("palimpsest-store")  # the verifier's own, for levels that make or look up models
    seed: int | None = None  # of the random slice; None: fresh entropy, which the level prints
    slice: int = 64  # (seed, attack, memory) that are asked again
    yes: bool = False  # run the author's code without asking
    seeds: tuple[int, ...] = ()  # of the suite, for what is trained again; none: all
    limit: float = 3600.0  # seconds that the author's code may take
    scratch: Path | None = None  # a folder that is kept, so that what was trained again is found again; None: one that goes away
    memories: Path | None = None  # passages that were never published, for the audit
    ask: Callable[[str], bool] = lambda question: False
    progress: Progress = silent


@dataclass(frozen=True)
class Case:
    """What a level is given."""

    bundle: Bundle
    suite: Suite  # what the row is held against: the verifier's own
    options: Options = field(default_factory=Options)
    level: str = ""  # up to which is verified
    frozen: Frozen | None = None  # the record of the row's track, if that is frozen and the verifier names no other suite


AUDIT = "audit"  # beyond the levels, where the verifier gives passages of their own


def verify(case: Case, level: str) -> Iterator[tuple[str, Finding]]:
    """(level, finding) of every level up to this one; none after a level at which something disagreed."""
    if level not in LEVELS:
        raise unknown("level", level, LEVELS)
    case = replace(case, level=level)
    for name in (*LEVELS[: LEVELS.index(level) + 1], *((AUDIT,) if case.options.memories else ())):
        wrong = False
        case.options.progress(f"level {name}", 0, 1)  # a level may work for long before it finds anything
        for found in checks_of(name)(case):
            wrong |= found.agreed is False
            yield name, found
        if wrong:
            return


def checks_of(level: str) -> Callable[[Case], Iterable[Finding]]:
    """What a level looks at."""
    try:
        return importlib.import_module(f"{__package__}.{level}").check
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}.{level}":
            raise
        raise UserError(f"The level {level} is not there in this version of palimpsest.") from None


def agreed(what: str, wrong: list[str], fine: str = "") -> Finding:
    """A finding from what is wrong; the first few are said."""
    shown = "; ".join(wrong[:4]) + (f"; and {len(wrong) - 4} more" if len(wrong) > 4 else "")
    return Finding(what, not wrong, shown if wrong else fine)
