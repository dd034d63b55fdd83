"""How much of the unlearning an attack that changes the model undoes."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ..benchmark.common.types import HELD
from ..benchmark.scoring.score import UNCHANGED, Score
from .measures import reversal
from .statistics import Estimate, figure


@dataclass(frozen=True)
class ReversalCell:
    """(attacked − unlearned) / (held − unlearned), from mean matched lengths over the same memories and the same prompts."""

    attack: str
    share: Estimate  # one value per seed


def tampering(score: Score) -> tuple[str, ...]:
    """Attacks that change the model: those that ask it with prompting attacks with which the unchanged model was asked too."""
    inner = {r.inner for r in score.records if r.attack == UNCHANGED}
    changed = (r.attack for r in score.records if r.inner in inner)
    return tuple(name for name in dict.fromkeys(changed) if name != UNCHANGED)


def reversals(score: Score, method: str, attacks: tuple[str, ...]) -> tuple[ReversalCell, ...]:
    """One cell per tampering attack; NaN for seeds in which at most one token was unlearned."""
    mine, held = score.rated(method), score.rated(HELD)
    cells = []
    for attack in attacks:
        lengths = {"attacked": mine[attack], "unlearned": mine[UNCHANGED], "held": held[UNCHANGED]}
        means = pd.DataFrame(lengths).dropna().groupby("seed").mean()
        cells.append(ReversalCell(attack, figure([reversal(*row) for row in means.itertuples(index=False)])))
    return tuple(cells)
