"""Scores of continuations, cut by model, context and continuation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ...leaderboard.statistics import Estimate, figure, rate


@dataclass(frozen=True)
class Scores:
    """Scores of injected and never-injected texts, cut by model, context and continuation."""

    rows: pd.DataFrame
    usual: int

    def of(self, model: str, role: str = "forget", context: int = 0, continuation: int = 0) -> pd.DataFrame:
        r, c, n = self.rows, context or self.usual, continuation or self.usual
        return r[(r.model == model) & (r.role == role) & (r.context == c) & (r.continuation == n)]

    def whole(self, *cell: Any) -> Estimate:
        """The share of texts with score 1."""
        return rate([part.score.ge(1).to_numpy(float) for _, part in self.of(*cell).groupby("seed")])

    def by_seed(self, of: Callable[[int], float]) -> Estimate:
        """An estimate from one number per seed."""
        return figure([of(seed) for seed in sorted(set(self.rows.seed))])

    def count(self, seed: int, *cell: Any) -> float:
        """How many texts of a seed have score 1."""
        part = self.of(*cell)
        return float(part[part.seed == seed].score.ge(1).sum())
