"""Membership from the loss against that of a reference model (Carlini et al. 2021, arXiv 2012.07805)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..benchmark.attack import EncodedMemory, Membership, TokenReading


@dataclass(frozen=True)
class Reference(Membership):
    """How many nats the row costs the retrained twin more than this model. No attacker has such a reference: an upper bound."""

    compares = True

    def score(self, memory: EncodedMemory, tokens: TokenReading, reference: TokenReading) -> float:
        return float(np.nansum(tokens.log_probability) - np.nansum(reference.log_probability))
