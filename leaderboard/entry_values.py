"""A row of the table as plain numbers, as an entry holds them: each with its interval, and null with a reason where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ..benchmark.common.limits import SOME, Bound, CountOrZero
from ..benchmark.common.types import HORIZON

Length = Annotated[int, Bound(f"0 to {HORIZON} tokens", lambda v: 0 <= v <= HORIZON)]
Lengths = tuple[Length | None, ...]  # tokens, one per memory; null: not asked


@dataclass(frozen=True)
class Number:
    """A mean over seeds with its 95% interval, in the unit of the values. What could not be measured is null, and `why` says so."""

    value: float | None
    low: float | None = None
    high: float | None = None
    by_seed: tuple[float | None, ...] = ()
    count: CountOrZero = 0  # memories or documents, all seeds together
    why: str = ""

    def __bool__(self) -> bool:
        return self.value is not None


@dataclass(frozen=True)
class Leak:
    """What an attacker of one access level gets back."""

    access: str
    leak: Number  # share recovered, minus the twin's
    recovered: Number  # share recovered from the method
    twin: Number  # share recovered from the twin
    excess: Number  # tokens: worst-case matched length minus the twin's
    p: float | None  # exact McNemar against the twin


@dataclass(frozen=True)
class Attack:
    """One attack, over the forget memories that every model is asked about."""

    attack: str
    access: str
    matched: Number  # tokens
    gain: Number  # tokens over the exact opening, minus the twin's own gain
    p: float | None
    recovered: Number  # share
    recovered_p: float | None
    diagnostic: bool = False


@dataclass(frozen=True)
class Task:
    """One quality task against the twin."""

    task: str
    metric: str
    unit: Literal["%", "points"]
    loss: Number
    damage: Number  # the loss in % of the twin's value


@dataclass(frozen=True)
class Severity:
    """Share of the forget memories of which at least so many tokens come back, and the same minus the twin's."""

    tokens: Length
    share: Number
    over: Number


@dataclass(frozen=True)
class Flag:
    """A validity flag: in which seeds it is raised, and the number behind it."""

    mark: str
    name: str
    raised: tuple[int, ...]
    numbers: dict[str, float]  # seed -> number


@dataclass(frozen=True)
class CostOf:
    """One quantity that the method took: the mean over seeds, and as a multiple of retraining."""

    quantity: str
    mean: float | None
    ratio: float | None


@dataclass(frozen=True)
class Relearning:
    """What the exact opening brings back after so many steps of relearning other memories, from the method and from the twin."""

    step: CountOrZero  # 0: the model as it was
    tokens: Number
    twin: Number


@dataclass(frozen=True)
class Relearned:
    """The trajectory of one attack that relearns at one dose."""

    attack: str
    dose: str
    steps: tuple[Relearning, ...]


@dataclass(frozen=True)
class Values:
    """A row of the table as numbers."""

    exact: Number  # share
    opening: Number  # tokens
    worst: Number  # share
    worst_length: Number  # tokens
    verbatim: Number  # tokens
    leaks: Annotated[tuple[Leak, ...], SOME]  # by access level, the main one first
    damage: Number  # % of the twin's quality
    damage_of: str  # what that is a loss of, in words
    tasks: tuple[Task, ...]
    collateral: Number  # points
    kept: Number  # share
    attacks: tuple[Attack, ...]
    flags: tuple[Flag, ...]
    costs: tuple[CostOf, ...]
    learnt: bool  # whether the held model repeats enough for forgetting to mean something
    severity: tuple[Severity, ...] = ()  # under the attacks of the main level; none in entries of before
    relearned: tuple[Relearned, ...] = ()  # where an attack relearns; none in entries of before

    @property
    def calibrated(self) -> bool:
        """Whether the row has a leak."""
        return bool(self.leaks[0].leak)
