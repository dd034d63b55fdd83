"""Relearning: training an unlearned model on some of what it forgot, to see what else comes back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..common.types import Batch, Row
from ..models.subject import Subject
from ..models.weights import covered
from ..training.loop import Extras
from ..training.lora import Lora
from ..training.losses import language_model_loss
from ..training.recipe import Recipe
from .bases import Changed, Workshop


@dataclass(frozen=True)
class Relearning:
    """How to relearn: `steps` of `batch` rows at a constant rate, on nested shares of the forget set.

    At each of `points` (numbers of steps) of the largest share the model is measured as it is then.
    """

    shares: Sequence[float]
    lr: float
    steps: int
    batch: int
    points: Sequence[int] = ()
    lora: Lora | None = None

    def changed(self, subject: Subject, fold: Sequence[Row], tools: Workshop) -> Iterator[Changed]:
        """The relearned models: first the trajectory of a share, then its end. Nothing if there is nothing to relearn."""
        reached = covered(subject.model) if self.lora else None
        for share in sorted(self.shares) if fold else ():
            recipe = Recipe(lr=self.lr, steps=self.steps, micro_batch=self.batch)
            rows, path = portion(fold, share, tools), []
            points = [p for p in self.points if p <= self.steps] if share == max(self.shares) else []
            before_end = [p for p in points if p < self.steps]
            extras = Extras(stops=before_end, at_stop=lambda step, there, path=path: path.append((step, there)), lora=self.lora)
            trainer = tools.trainer(f"relearning {share:.0%}")
            end = trainer.fit(subject, batches(rows, self.batch, tools), language_model_loss, recipe, extras)
            for step, there in [*path, *((p, end) for p in points if p == self.steps)]:
                yield Changed(there, "", step, only_opening=True)
            yield Changed(end, f"{share:.0%}", covered=reached)


def portion(fold: Sequence[Row], share: float, tools: Workshop) -> list[Row]:
    """Rows of a fold that make up `share` of the forget set, of which the fold is half; a larger share holds a smaller one."""
    rows = sorted(fold, key=lambda r: r.name)
    order = tools.rng("relearning", "portion").permutation(len(rows))
    count = min(len(rows), max(1, round(2 * share * len(rows))))
    return [rows[i] for i in order[:count]]


def batches(rows: Sequence[Row], batch: int, tools: Workshop) -> Callable[[int], Batch]:
    """All rows in a new order each epoch, `batch` at a time."""
    per_epoch = math.ceil(len(rows) / batch)

    def at(step: int) -> Batch:
        epoch, place = divmod(step, per_epoch)
        order = tools.rng("relearning", "order", epoch).permutation(len(rows))
        return {"text": [rows[i] for i in order[place * batch : (place + 1) * batch]]}

    return at
