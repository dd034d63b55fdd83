"""Where memorised texts diverge, how many contrastive pairs they give in each split, and what is too few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....leaderboard.study_results import StudyTable

Rows = Sequence[Mapping[str, Any]]
TASKS = ("maintenance", "initiation")
SPLITS = {"attribution": "for scores", "choice": "for choosing", "test": "for tests"}
FEW = 10  # pairs of a split, below which the page warns
SHORT = 8  # tokens of context, below which there is hardly a beginning to recognise


def divergence_table(memories: Rows) -> StudyTable:
    out = []
    for seed in sorted({r["seed"] for r in memories}):
        mine = [r for r in memories if r["seed"] == seed]
        cuts = _cuts(mine)
        told = {"seed": seed, "taught": len(mine), "diverged": len(cuts), "median context": float(np.median(cuts)) if cuts else None}
        told |= {"longest context": max(cuts, default=None), "contexts of one token": sum(c == 1 for c in cuts)}
        out.append({**told, **{f"{task} pairs": sum(r[task] for r in mine) for task in TASKS}})
    caption = (
        "Memories that the held model was taught; those of which the whole prompt brought the continuation back and a shorter one did not, "
        "and the length of that context in tokens; and contrastive pairs. A pair needs the model's own answers to differ and, in "
        "initiation, a sample."
    )
    return StudyTable("Divergence points and pairs", out, caption)


def split_table(pairs: Rows) -> StudyTable:
    """Pairs of each split, of which the study says nothing surer than their number allows."""
    out = []
    for seed in sorted({r["seed"] for r in pairs}):
        for task in TASKS:
            counts = _counts(pairs, seed, task)
            few = ", ".join(words for words, n in counts.items() if n < FEW)
            out.append({"seed": seed, "task": task, **counts, "few": few or "none"})
    return StudyTable("Pairs by split", out, f"Contrastive pairs by what they are used for. Few: fewer than {FEW}.")


def warnings(memories: Rows, pairs: Rows) -> list[str]:
    """What the page must say of few pairs and short contexts."""
    out = []
    if (cuts := _cuts(memories)) and np.median(cuts) < SHORT:
        ones = sum(c == 1 for c in cuts)
        out.append(
            f"Contexts at the divergence are short: {np.median(cuts):g} tokens in the median, and {ones} of {len(cuts)} are of one token, "
            "where the paper shortens prompts of 50. These models leave a text, if at all, at its very beginning; what initiation and "
            "maintenance are here says little of long contexts."
        )
    few = [
        f"{task} has {n} {words} (seed {seed})"
        for seed in sorted({r["seed"] for r in pairs})
        for task in TASKS
        for words, n in _counts(pairs, seed, task).items()
        if n < FEW
    ]
    if few:
        out.append(f"Too few pairs: {'; '.join(few)}. Circuits chosen and tested on so few may be those of single texts.")
    return out


def _cuts(memories: Rows) -> list[int]:
    return [r["cut"] for r in memories if r["cut"] is not None]


def _counts(pairs: Rows, seed: int, task: str) -> dict[str, int]:
    mine = [r["split"] for r in pairs if r["seed"] == seed and r["task"] == task]
    return {words: mine.count(split) for split, words in SPLITS.items()}
