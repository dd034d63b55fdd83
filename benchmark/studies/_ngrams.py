"""How often runs of tokens stand in the training text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Ngrams:
    """Counts of 1-, 2- and 3-grams of a packed text, made when first asked."""

    def __init__(self, tokens: np.ndarray):
        self.tokens = np.asarray(tokens, np.int64)
        self.base = int(self.tokens.max(initial=0)) + 1
        self._sorted: dict[int, np.ndarray] = {}

    def counts(self, ids: Sequence[int], n: int) -> np.ndarray:
        """For each token how often the n-gram that ends in it stands in the text; of the first n - 1 tokens 0."""
        if n not in self._sorted:
            self._sorted[n] = np.sort(self._codes(self.tokens, n))
        mine, text = self._codes(np.asarray(ids, np.int64), n), self._sorted[n]
        found = np.searchsorted(text, mine, "right") - np.searchsorted(text, mine, "left")
        return np.concatenate([np.zeros(min(n - 1, len(ids)), int), found])

    def _codes(self, ids: np.ndarray, n: int) -> np.ndarray:
        """A number for each n-gram; ids that the text has not give one that no n-gram of it has."""
        strange = ids >= self.base
        ids = np.where(strange, 0, ids)
        codes = sum(ids[k : len(ids) - n + 1 + k] * self.base ** (n - 1 - k) for k in range(n))
        unknown = np.any([strange[k : len(ids) - n + 1 + k] for k in range(n)], axis=0)
        return np.where(unknown, -1, codes)
