"""What `palimpsest tune` tries: a method's class variable `search` names fields, and for each a range or a few values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..common.errors import UserError


@dataclass(frozen=True)
class Range:
    """Every number from `low` to `high`, drawn uniformly on a logarithmic scale unless `log` is False."""

    low: float
    high: float
    log: bool = True

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise UserError(f"{self}: expected low below high{', and both above 0 on a logarithmic scale' if self.log else ''}.")


Space = Mapping[str, Range | tuple[Any, ...]]  # field -> its range, or the values to choose from
