"""Membership from the tokens that are least likely for their place (Zhang et al. 2024, arXiv 2404.02936)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..benchmark.attack import EncodedMemory, Membership, Share, TokenReading


@dataclass(frozen=True)
class MinKPlusPlus(Membership):
    """Min-K%++: as Min-K%, of log-probabilities standardised by their mean and deviation over the vocabulary at each place."""

    k: Share = 0.2

    def score(self, memory: EncodedMemory, tokens: TokenReading, reference: TokenReading) -> float:
        known = ~np.isnan(tokens.log_probability)
        above, deviation = (tokens.log_probability - tokens.mean)[known], tokens.deviation[known]
        standard = np.divide(above, deviation, out=np.zeros_like(above), where=deviation > 0)  # 0: all that is possible is equally likely
        return float(np.sort(standard)[: max(1, int(self.k * len(standard)))].mean())
