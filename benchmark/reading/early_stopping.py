"""Evaluating a model while it trains, and early stopping by a rule that was declared beforehand.

An evaluation gives two numbers: the share of forget memories that the exact opening brings back whole, and the loss on text that
is in no training data and in no quality task. Nothing else that ranks methods is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..common.errors import UserError
from ..common.limits import Count, NotNegative, Part
from ..common.processes import gathered, my_share
from ..common.types import EncodedMemory, Row, opening_probe
from ..models.subject import Subject
from ..training.losses import nll_of_rows
from .reader import Reader


@dataclass(frozen=True)
class EarlyStopping:
    """Evaluate after every so many steps, and end as soon as one of the conditions that are given holds; without any, only evaluate."""

    every: Count = 10  # steps
    exact: Part | None = None  # at most this share of the forget memories comes back whole
    rise: NotNegative | None = None  # the held-out loss is above the held model's by more than this share of it

    def __post_init__(self) -> None:
        if self.every < 1 or not 0 <= (self.exact or 0) <= 1 or (self.rise or 0) < 0:
            raise UserError(
                f"stop.every={self.every}, exact={self.exact}, rise={self.rise}: expected at least 1 step, a share from 0 to 1, "
                "and at least 0."
            )

    def ends(self, before: Mapping[str, float], now: Mapping[str, float]) -> bool:
        """Whether training ends, by what was measured before the first step and what is measured now."""
        forgotten = self.exact is not None and now["exact"] <= self.exact
        worse = self.rise is not None and now["held_out"] > (1 + self.rise) * before["held_out"]
        return forgotten or worse


@dataclass(frozen=True)
class Monitor:
    """What an evaluation reads. Under the launcher every rank reads its share, and all get the same numbers."""

    memories: Sequence[EncodedMemory] = field(repr=False)  # to forget
    text: Sequence[Row] = field(repr=False)  # held out

    def evaluate(self, subject: Subject, precision: str) -> dict[str, float]:
        """`exact`: share of the memories; `held_out`: nats per token, in fp32. Every rank calls it with the same model."""
        mine = my_share(self.memories)
        lengths = Reader(subject, precision).read([opening_probe(m) for m in mine])
        whole = gathered([n >= len(m.target) for m, (n,) in zip(mine, lengths, strict=True)])
        losses = gathered(nll_of_rows(subject.model, my_share(self.text)))
        return {"exact": sum(whole) / len(whole), "held_out": sum(losses) / sum(r.scored for r in self.text)}
