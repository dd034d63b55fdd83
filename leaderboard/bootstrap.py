"""Hierarchical resampling: seeds are drawn first, then memories within them, since seeds are the independent units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def resampling_weights(sizes: Sequence[int], resamples: int, seed: int = 0) -> np.ndarray:
    """Weights [resamples, sum of sizes] of the values in each draw; `sizes` are the memories of each seed, in the order of the values.

    A row sums to 1, so `weights @ values` are the draws of a mean of seed means. A fixed seed gives the same draws each time.
    """
    if not all(sizes):
        raise ValueError(f"Every seed needs a memory to draw from; sizes are {list(sizes)}.")
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=resamples)  # how often each seed is drawn
    blocks = [rng.multinomial(times[:, i] * n, np.full(n, 1 / n)) / (n * len(sizes)) for i, n in enumerate(sizes)]
    return np.concatenate(blocks, axis=1)
