"""What a field may hold, declared beside its type: `lr: Positive = 1e-4`. Held wherever fields come from a user, before work begins."""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any

from .errors import UserError


@dataclass(frozen=True)
class Bound:
    """A condition on a value, and how the error says it."""

    says: str
    holds: Callable[[Any], bool]

    def validate(self, value: Any, where: str) -> None:
        if not self.holds(value):
            raise UserError(f"{where}={value!r}: expected {self.says}.")


@dataclass(frozen=True)
class OneOf(Bound):
    """One of a few words."""

    says: str = ""
    holds: Callable[[Any], bool] = bool
    words: tuple[str, ...] = ()

    def validate(self, value: Any, where: str) -> None:
        if value not in self.words:
            raise UserError(f"{where}={value!r}: expected {', '.join(self.words[:-1])} or {self.words[-1]}.")


def one_of(*words: str) -> OneOf:
    return OneOf(words=words)


Count = Annotated[int, Bound("at least 1", lambda v: v >= 1)]
CountOrZero = Annotated[int, Bound("at least 0", lambda v: v >= 0)]
Positive = Annotated[float, Bound("a number above 0", lambda v: v > 0)]
NotNegative = Annotated[float, Bound("a number of at least 0", lambda v: v >= 0)]
Share = Annotated[float, Bound("a share above 0 and at most 1", lambda v: 0 < v <= 1)]
Part = Annotated[float, Bound("a share from 0 to 1", lambda v: 0 <= v <= 1)]
SCHEDULES = ("constant", "linear", "cosine")
Schedule = Annotated[str, one_of(*SCHEDULES)]
RetainLoss = Annotated[str, one_of("nll", "kl")]
SOME = Bound("at least one", lambda v: len(v) > 0)
Counts = Annotated[tuple[Count, ...], SOME]
Shares = Annotated[tuple[Share, ...], SOME]
PLAIN_WORD = Bound(
    "a plain word: letters, digits, - _ and ., not beginning with a dot", lambda v: bool(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", v))
)


def hold(instance: Any, where: str) -> None:
    """Raise for the first field of a dataclass that is out of its bounds, or that is no finite number."""
    for name, hint in _declared(type(instance)).items():
        _validate(hint, getattr(instance, name), f"{where}{name}")


@cache
def _declared(cls: type) -> dict[str, Any]:
    """Field -> its type with bounds. What a base class declares holds for a class that only gives another default."""
    hints: dict[str, Any] = {}
    known = {f.name for f in fields(cls)}
    for base in reversed(cls.__mro__):
        theirs = typing.get_type_hints(base, include_extras=True) if vars(base).get("__annotations__") else {}
        for name in known & set(vars(base).get("__annotations__", ())):
            if name not in hints or typing.get_origin(theirs[name]) is Annotated:
                hints[name] = theirs[name]
    return hints


def _validate(hint: Any, value: Any, where: str) -> None:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is not None:
            _validate(next(a for a in arguments if a is not type(None)), value, where)
    elif origin is Annotated:
        _validate(arguments[0], value, where)
        for bound in arguments[1:]:
            if isinstance(bound, Bound):
                bound.validate(value, where)
    elif origin is tuple:
        for item in value:
            _validate(arguments[0], item, where)
    elif hint is float and not math.isfinite(value):
        raise UserError(f"{where}={value!r}: expected a finite number.")
