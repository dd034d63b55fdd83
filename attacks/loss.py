"""Membership from the loss (Yeom et al. 2018, arXiv 1709.01604)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..benchmark.attack import EncodedMemory, Membership, TokenReading


@dataclass(frozen=True)
class Loss(Membership):
    """Mean log-probability of the row's tokens, that is, the loss with its sign turned."""

    quantity = "loss"

    def score(self, memory: EncodedMemory, tokens: TokenReading, reference: TokenReading) -> float:
        return float(np.nanmean(tokens.log_probability))
