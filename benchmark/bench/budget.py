"""How much a comparison may compare: all of it where that is quick, else what fits into the part's time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence

ROUNDS = 3  # of the two sides in turn


class Budget:
    """So many seconds for one part of the bench, divided among its comparisons; infinite ones where everything is compared."""

    def __init__(self, seconds: float, comparisons: int):
        self._until, self._left = time.perf_counter() + seconds, comparisons

    @property
    def spent(self) -> bool:
        return time.perf_counter() > self._until

    def fitting(self, each: float, least: int, most: int) -> int:
        """How many pieces of `each` seconds the next comparison may take; never fewer than `least`, with which it still means something."""
        share = (self._until - time.perf_counter()) / max(self._left, 1)
        self._left -= 1
        return most if math.isinf(share) else max(least, min(most, int(share / each)))


def spread(ratios: Sequence[float], unit: str = "x") -> str:
    """The median and the range of what was measured several times: `8.1x (7.9 to 8.4)`."""
    digits = 1 if unit == "x" else 2
    return f"{statistics.median(ratios):.{digits}f}{unit} ({min(ratios):.{digits}f} to {max(ratios):.{digits}f})"
