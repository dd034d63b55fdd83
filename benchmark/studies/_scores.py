"""Scores of continuations, cut by model, context and continuation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...leaderboard.statistics import Estimate, rate


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

    def by_memory(self, *cell: Any) -> list[np.ndarray]:
        """The scores of a cell, one array per seed, memories in one order for all cells."""
        return [part.sort_values("memory").score.to_numpy(float) for _, part in self.of(*cell).groupby("seed")]
