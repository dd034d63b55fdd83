"""Membership from the least likely tokens (Shi et al. 2023, arXiv 2310.16789)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..benchmark.attack import EncodedMemory, Membership, Share, TokenReading


@dataclass(frozen=True)
class MinK(Membership):
    """Min-K%: mean log-probability of the least likely share k of the row's tokens."""

    k: Share = 0.2

    def score(self, memory: EncodedMemory, tokens: TokenReading, reference: TokenReading) -> float:
        known = tokens.log_probability[~np.isnan(tokens.log_probability)]
        return float(np.sort(known)[: max(1, int(self.k * len(known)))].mean())
