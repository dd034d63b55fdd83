"""Fine-tuning on ordinary text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..benchmark.attack import Batch, Changed, Count, Positive, Recipe, Row, Subject, Tampering, Workshop, language_model_loss


@dataclass(frozen=True)
class BenignFinetuning(Tampering):
    """Fine-tune on ordinary text that has nothing to do with the memories (Łucki et al. 2024, arXiv 2409.18025).

    The text is the beginning of what methods are given to retain, so one with a retain term has trained on it already.
    """

    lr: Positive = 1e-4
    steps: Count = 50
    batch: Count = 8  # rows per step

    def tamper(self, subject: Subject, relearned: Sequence[Row], tools: Workshop) -> Iterable[Changed]:
        def batch_at(step: int) -> Batch:
            return {"text": [tools.retain(step * self.batch + i) for i in range(self.batch)]}

        recipe = Recipe(lr=self.lr, steps=self.steps, micro_batch=self.batch)
        tuned = tools.trainer("benign fine-tuning").fit(subject, batch_at, language_model_loss, recipe)
        yield Changed(tuned, f"{self.steps} steps")
