"""How last-layer states of memorised and unmemorised texts lie to each other, step by step of decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

CLASSES = ("memorised", "half", "unmemorised")


def geometry(states: np.ndarray, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """For each step and pair of classes the mean Euclidean distance and cosine of pairs of texts, from states [texts, steps, H].

    Of each class also its centre in the plane of the two main components of all states, and the share of variance these have.
    """
    of = np.array(classes)
    centred = states - states.mean((0, 1))
    flat = centred.reshape(-1, states.shape[-1])
    _, size, axes = np.linalg.svd(flat, full_matrices=False)
    share = float((size[:2] ** 2).sum() / max(1e-12, (size**2).sum()))
    plane = centred @ axes[:2].T
    for step in range(states.shape[1]):
        for a, b in combinations_with_replacement(CLASSES, 2):
            x, y = states[of == a, step], states[of == b, step]
            if len(x) > (a == b) and len(y) > (a == b):
                distance, cosine = _pairs(x, y, a == b)
                yield {"step": step, "pair": f"{a} – {b}" if a != b else a, "distance": distance, "cosine": cosine}
        for a in CLASSES:
            if len(there := plane[of == a, step]):
                x, y = there.mean(0).tolist()
                yield {"step": step, "pair": f"centre of {a}", "x": x, "y": y, "explained": share}


def _pairs(x: np.ndarray, y: np.ndarray, same: bool) -> tuple[float, float]:
    """Mean distance and cosine of the pairs of two groups [n, H], [m, H]; within one group of different texts."""
    dot = x @ y.T
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * dot
    length = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)[None]
    chosen = ~np.eye(len(x), dtype=bool) if same else np.ones(dot.shape, bool)
    return float(np.sqrt(squares.clip(0))[chosen].mean()), float((dot / length.clip(1e-12))[chosen].mean())
