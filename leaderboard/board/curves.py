"""Operating curves that entries state, by the same rules as those of a run: their frontiers, and what budgets buy."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ...benchmark.common.types import OperatingPoint
from ..entry import Entry, Point
from ..entry_values import Number
from ..operating_curves import Curve, Setting
from ..statistics import Estimate


def curves_of(entries: Iterable[Entry]) -> tuple[list[Curve], str]:
    """The curves of the entries that state one, named as they are, and what of a setting comes back with its unit.

    That is the matched length: entries tell no excess of their points.
    """
    return [Curve(e.name, _settings(e)) for e in entries if e.curve], "longest match, tokens"


def _settings(entry: Entry) -> tuple[Setting, ...]:
    def of(p: Point) -> Setting:
        point = OperatingPoint(entry.name, entry.name, math.nan, p.field, p.value)  # entries tell values, not multiples
        tokens = _estimate(p.tokens)
        return Setting(point, tokens, tokens, _estimate(p.collateral), _estimate(p.damage))

    return tuple(map(of, entry.curve))


def _estimate(x: Number) -> Estimate:
    value, low, high, *seeds = (math.nan if v is None else v for v in (x.value, x.low, x.high, *x.by_seed))
    return Estimate(value, low, high, tuple(seeds), x.count)
