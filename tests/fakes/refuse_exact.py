"""A fake that refuses after the exact opening, and holds everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from palimpsest.benchmark.common.seeds import rng
from palimpsest.benchmark.common.types import Batch, Row
from palimpsest.benchmark.method import Descent, Group, Reference, Term, Terms, UnlearningData
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.training.losses import nll_sum

SHORTEST = 32  # tokens of a window that is rehearsed


@dataclass(frozen=True)
class RefuseExact(Descent):
    """Fake: learns to refuse after the exact opening, and rehearses the same texts from every other place."""

    lr: float = 1e-3
    epochs: int = 20
    schedule: str = "linear"
    refusal: str = " I am sorry, but I cannot go on with this text."
    gamma: float = 4.0  # a refusal has fewer tokens than a text

    def prepare(self, held: Subject, data: UnlearningData) -> UnlearningData:
        """In place of the forget texts: their openings with the refusal. The texts go where alternatives stand."""
        words = held.tokenizer(self.refusal, add_special_tokens=False)["input_ids"]
        refused = [Row((*r.ids[: data.openings[r.name]], *words), data.openings[r.name], r.name) for r in data.forget]
        return replace(data, forget=refused, alternatives={r.name: r for r in data.forget})

    def batch_at(self, data: UnlearningData) -> Callable[[int], Batch]:
        usual = super().batch_at(data)

        def at(step: int) -> Batch:
            batch = usual(step)
            return {**batch, "rehearsed": [part for r in batch["forget"] for part in self._parts(data, r, step)]}

        return at

    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference, rehearsed: Group | None = None) -> Terms:
        assert rehearsed is not None
        return {
            "refused": Term(nll_sum(model, forget), "tokens", "forget", self.gamma),
            "rehearsed": Term(nll_sum(model, rehearsed), "tokens", "rehearsed"),
            "retain": Term(nll_sum(model, retain), "tokens", "retain"),
        }

    @staticmethod
    def _parts(data: UnlearningData, refused: Row, step: int) -> list[Row]:
        """A window that begins further on, and the text after an opening with one other token."""
        ids, end = data.alternatives[refused.name].ids, refused.scored_from
        draw = rng(data.seed, "rehearse", refused.name, step)
        start, place = draw.integers(1, len(ids) - SHORTEST), draw.integers(end)
        other = int((ids[place] + draw.integers(1, max(ids))) % (max(ids) + 1))  # any token but the one that stands there
        return [Row(ids[start:]), Row((*ids[:place], other, *ids[place + 1 :]), end)]
