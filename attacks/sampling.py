"""(n, p)-discoverable extraction in closed form (Hayes et al. 2024, arXiv 2410.19482)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..benchmark.attack import HORIZON, Count, EncodedMemory, Membership, TokenReading

TOP = 40  # the sampling scheme of the paper, at temperature 1; `TokenReading.top_mass` is of as many


@dataclass(frozen=True)
class Sampling(Membership):
    """Log-probability of drawing the target after the exact opening, by top-40 sampling at temperature 1; -inf if it is never drawn."""

    length: Count = HORIZON  # tokens of the target

    quantity = "sampling"

    def score(self, memory: EncodedMemory, tokens: TokenReading, reference: TokenReading) -> float:
        target = slice(memory.opening, memory.opening + self.length)
        if (tokens.rank[target] >= TOP).any():
            return -math.inf
        drawn = tokens.log_probability[target] - tokens.top_mass[target]
        return float(np.minimum(drawn, 0.0).sum())
