"""Word runs shared between documents: near-duplicate clusters, and how much of one set stands in another."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..common.scripts import UNSPACED

RUN = 8  # words; the length at which a shared run is taken for copying
_UNSPACED = re.compile(rf"[{UNSPACED}]")
_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+(?:'[^\W{UNSPACED}]+)?")


def words(text: str) -> list[str]:
    """The lower-cased words of a text; punctuation and layout do not count. In a script without spaces each character is one."""
    return _WORD.findall(text.lower())


def unspaced(text: str) -> bool:
    """Whether most of a text is in scripts that part no words by spaces."""
    return 2 * len(_UNSPACED.findall(text)) > len("".join(text.split()))


def run_hashes(texts: Sequence[str], n: int = RUN) -> list[np.ndarray]:
    """For each text the sorted distinct 64-bit hashes of its n-word runs; empty if it has fewer than n words."""
    ids: dict[str, int] = {}
    multipliers = np.random.default_rng(8).integers(1, 2**63, n, dtype=np.uint64) | np.uint64(1)
    out = []
    for text in texts:
        found = words(text)
        ids.update((word, _mix(word)) for word in set(found) - ids.keys())
        w = np.array([ids[word] for word in found], dtype=np.uint64)
        if len(w) < n:
            out.append(np.empty(0, np.uint64))
            continue
        windows = np.lib.stride_tricks.sliding_window_view(w, n)
        h = np.zeros(len(windows), np.uint64)
        for k in range(n):  # order-sensitive: every step mixes what came before
            h = (h ^ windows[:, k]) * multipliers[k]
            h ^= h >> np.uint64(29)
        out.append(np.unique(h))
    return out


def _mix(word: str) -> int:
    value = 14695981039346656037
    for byte in word.encode():  # FNV-1a, so that hashes do not depend on Python's per-process seed
        value = ((value ^ byte) * 1099511628211) % 2**64
    return value


def clusters(texts: Sequence[str], share: float = 0.25, too_common: int = 64) -> np.ndarray:
    """A cluster number per text: texts of which the shorter has `share` of its 8-word runs in the other belong together.

    Runs that stand in more than `too_common` texts (licences, stock phrases) do not link texts.
    """
    runs = run_hashes(texts)
    sizes = np.array([len(r) for r in runs])
    document = np.repeat(np.arange(len(runs)), sizes)
    _, column, count = np.unique(np.concatenate(runs), return_inverse=True, return_counts=True)
    linking = (count[column] > 1) & (count[column] <= too_common)
    ones = np.ones(int(linking.sum()), np.float32)
    incidence = coo_array((ones, (document[linking], column[linking])), (len(runs), len(count))).tocsr()
    shared = (incidence @ incidence.T).tocoo()
    smaller = np.minimum(sizes[shared.row], sizes[shared.col])
    near = shared.data >= share * np.maximum(smaller, 1)
    links = coo_array((shared.data[near], (shared.row[near], shared.col[near])), (len(runs), len(runs)))
    return connected_components(links, directed=False)[1]


def doubles(texts: Sequence[str]) -> list[list[int]]:
    """Groups of texts that are nearly the same: in one cluster, or of the same words where they are too short for a run."""
    labels, first = clusters(texts, too_common=len(texts)).tolist(), {}
    for i, text in enumerate(texts):
        labels[i] = labels[first.setdefault(" ".join(words(text)), i)]
    groups: dict[int, list[int]] = {}
    for i, label in enumerate(labels):
        groups.setdefault(label, []).append(i)
    return [g for g in groups.values() if len(g) > 1]


def overlap(texts: Sequence[str], others: Sequence[str], n: int = RUN) -> np.ndarray:
    """For each text the share of its distinct n-word runs that stand anywhere in `others` (0 if it is too short)."""
    return share_in(run_hashes(texts, n), run_hashes(others, n))


def share_in(runs: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> np.ndarray:
    """`overlap` on hashes already computed by `run_hashes` with the same n."""
    there = np.unique(np.concatenate([np.array([2**64 - 1], np.uint64), *others]))
    return np.array([(there[np.searchsorted(there, r)] == r).mean() if len(r) else 0.0 for r in runs])
