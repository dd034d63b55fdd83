"""Every random draw comes from (suite seed, purpose): never from keys, or held and retrained would see different streams."""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from a suite seed and what it is for."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng(seed: int, *purpose: str | int) -> np.random.Generator:
    """A NumPy generator for that purpose."""
    return np.random.default_rng(derive(seed, *purpose))
