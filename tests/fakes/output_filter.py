"""A fake that changes no weight: it watches what the held model says."""

from __future__ import annotations

from dataclasses import dataclass

from palimpsest.benchmark.method import Method, Trainer, UnlearningData
from palimpsest.benchmark.models.subject import Subject


@dataclass(frozen=True)
class OutputFilter(Method):
    """Fake: the unchanged held model behind a filter that puts a refusal in place of the forget texts."""

    refusal: str = " I am sorry, but I cannot go on with this text."
    run: int = 8  # tokens of a forget text that may not be said in a row

    def unlearn(self, held: Subject, data: UnlearningData, train: Trainer) -> Subject:
        words = held.tokenizer(self.refusal, add_special_tokens=False)["input_ids"]
        return Subject.filtered(held, [r.ids for r in data.forget], words, self.run)
