"""Series by seed as plain Python: what pandas keeps under labels of any type is here under whole numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd


def means(values: pd.Series) -> dict[int, float]:
    """Seed -> mean of what is not missing, of a series with a level `seed`."""
    return _plain(values.dropna().astype(float).groupby("seed").mean())


def least(values: pd.Series) -> dict[int, float]:
    """Seed -> the smallest value."""
    return _plain(values.astype(float).groupby("seed").min())


def arrays(values: pd.Series) -> dict[int, np.ndarray]:
    """Seed -> its values, in order."""
    seeds = values.index.get_level_values("seed").to_numpy(int)
    return {int(seed): values.to_numpy()[seeds == seed] for seed in np.unique(seeds)}


def _plain(by_seed: pd.Series) -> dict[int, float]:
    return dict(zip(by_seed.index.to_numpy(int).tolist(), by_seed.to_numpy(float).tolist(), strict=True))
