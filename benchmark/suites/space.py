"""Which of a method's fields are tried: for tuning by its class variable `search`, for operating curves by `strength`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..common.errors import UserError, unknown


@dataclass(frozen=True)
class Range:
    """Every number from `low` to `high`, drawn uniformly on a logarithmic scale unless `log` is False."""

    low: float
    high: float
    log: bool = True

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise UserError(f"{self}: expected low below high{', and both above 0 on a logarithmic scale' if self.log else ''}.")


@dataclass(frozen=True)
class Strength:
    """The field that trades forgetting for keeping: at strength s it holds s to the power of `power` times its ordinary value.

    Strength 1 is the ordinary run, and more is harder on the model. A field of which less forgets more has a negative power; one of
    which a little changes much, a power below 1.
    """

    field: str
    power: float = 1.0

    def at(self, strength: float, ordinary: Any) -> Any:
        """The field's value at a strength, a number of the kind of its ordinary one; in three digits, as a file can say it."""
        if isinstance(ordinary, bool) or not isinstance(ordinary, (int, float)) or not ordinary:
            raise UserError(
                f"strength={self}: {self.field} holds {ordinary!r}, and only a number other than 0 can be made larger or smaller."
            )
        if strength == 1:
            return ordinary
        value = ordinary * strength**self.power
        return round(value) if isinstance(ordinary, int) else float(f"{value:.3g}")


def declared_strength(method: type) -> Strength | None:
    """What a method declares, if it does. Raises a UserError where the name stands for something else, or for a field that is not there."""
    found = getattr(method, "strength", None)
    if found is not None and not isinstance(found, Strength):
        raise UserError(
            f"{method.__name__}.strength is {found!r}: expected Strength(FIELD), the field that trades forgetting for keeping, or None. "
            "If it is a field of yours, give it another name."
        )
    known = [f.name for f in fields(method)]  # type: ignore[arg-type]
    if found and found.field not in known:
        raise UserError(f"{method.__name__}.strength: {unknown('field', found.field, known)}")
    return found


Space = Mapping[str, Range | tuple[Any, ...]]  # field -> its range, or the values to choose from
