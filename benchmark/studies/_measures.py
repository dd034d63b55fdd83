"""Measures that other evaluations print and this benchmark does not: of one text on one model, higher where more of it is held.

Formulas as in the papers; where public code differs from them it is said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike


def extraction_strength(said: ArrayLike) -> float:
    """1 - i*/m, where i* is 1 + the index of the last of m target tokens that is not the likeliest one, 0 if there is none.

    The share of the target's end that follows by greedy decoding from all before it (Carlini et al. 2021, arXiv 2012.07805, as metric of
    Wang et al. 2025). `said` [m]: whether each token is the likeliest given the true ones before. If none is, it is 0.
    """
    hits = np.asarray(said, bool)
    wrong = np.flatnonzero(~hits)
    return 1.0 - (int(wrong[-1]) + 1) / len(hits) if len(wrong) else 1.0


def exact_memorisation(said: ArrayLike) -> float:
    """The share of target tokens that are the likeliest ones, given the true tokens before (Tirumala et al. 2022, arXiv 2205.10770)."""
    return float(np.mean(np.asarray(said, bool)))


def memorisation_score(continuation: Sequence[int], truth: Sequence[int]) -> float:
    """The share of places at which a greedy continuation has the true token (Chen et al. 2024, arXiv 2405.11577); later hits count alike.

    It rewards hits by chance, so the same of never injected text belongs beside it.
    """
    return sum(a == b for a, b in zip(continuation, truth, strict=False)) / len(truth)


def rouge_l(said: str, truth: str) -> float:
    """ROUGE-L F1 (Lin 2004): longest common subsequence of words, in lower case, letters and digits only."""
    a, b = (re.findall(r"[a-z0-9]+", text.lower()) for text in (said, truth))
    common = _common(a, b)
    return 2 * common / (len(a) + len(b)) if common else 0.0


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        new = [0]
        for y, (diagonal, above) in zip(b, pairwise(row), strict=True):
            new.append(diagonal + 1 if x == y else max(above, new[-1]))
        row = new
    return row[-1]


def truth_margin(truth: ArrayLike, other: ArrayLike) -> float:
    """Mean log-probability [nats per token] of the true continuation minus that of another one after the same opening.

    Minus the log of a truth ratio (Maini et al. 2024, TOFU, arXiv 2401.06121), whose geometric means are over tokens as here. Of
    several wrong answers `other` holds the mean of each. TOFU has five and one paraphrased right one; passages have one authored
    other continuation, and the text itself stands for its paraphrase.
    """
    return float(np.mean(np.asarray(truth, float)) - np.mean(np.asarray(other, float)))
