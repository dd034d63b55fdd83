"""What methods took, and how that compares with retraining."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..benchmark.common.types import Cost

QUANTITIES = {  # field of a cost -> title, and by what it is divided
    "seconds": ("Seconds", 1.0),
    "tokens": ("Thousand tokens", 1e3),
    "flops": ("TFLOPs", 1e12),
    "peak_mib": ("Peak MiB", 1.0),
}


@dataclass(frozen=True)
class CostCell:
    """One quantity: its mean over seeds in the field's own unit, and the same as a multiple of retraining."""

    quantity: str  # a key of QUANTITIES
    mean: float  # NaN: not measured
    ratio: float  # over the seeds that both were measured in


def cost_cells(costs: Iterable[Cost], method: str, yardstick: str) -> tuple[CostCell, ...]:
    """Every quantity of one method; empty if it took nothing, as the held model itself."""
    by_cell = {(c.method, c.seed): c for c in costs}
    mine = {seed: c for (name, seed), c in by_cell.items() if name == method}
    theirs = {seed: by_cell[yardstick, seed] for seed in mine if (yardstick, seed) in by_cell}
    return tuple(CostCell(q, _mean(mine, q), _mean({s: mine[s] for s in theirs}, q) / _mean(theirs, q)) for q in QUANTITIES) if mine else ()


def _mean(costs: dict[int, Cost], quantity: str) -> float:
    return float(np.mean([getattr(c, quantity) for c in costs.values()])) if costs else np.nan
