"""A fake that forgets too much: after forget texts any token may follow."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from palimpsest.benchmark.method import Descent, Group, Reference, Term, Terms
from palimpsest.benchmark.training.losses import nll_sum, scored_logits


@dataclass(frozen=True)
class RandomAnswers(Descent):
    """Fake: learns to guess in forget texts, which so become less likely than texts never seen.

    The loss is the cross-entropy to the uniform distribution: what random answers, drawn anew each time, cost on average.
    """

    lr: float = 1e-3
    epochs: int = 12

    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference) -> Terms:
        log_p = scored_logits(model, forget)[0].float().log_softmax(-1)
        return {
            "forget": Term(-log_p.mean(-1).sum(), "tokens", "forget"),
            "retain": Term(nll_sum(model, retain), "tokens", "retain"),
        }
