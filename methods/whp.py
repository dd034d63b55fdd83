"""Who's Harry Potter: a model against one that was taught the text (Eldan & Russinovich 2023, arXiv 2310.02238)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..benchmark.method import (
    Descent,
    Group,
    NotNegative,
    Range,
    Reference,
    Space,
    Strength,
    Subject,
    Term,
    Terms,
    Trainer,
    UnlearningData,
    nll_sum,
)


@dataclass(frozen=True)
class WHP(Descent):
    """Lower what more training on the text would raise: logits v_b - alpha ReLU(v_r - v_b), v_r trained on it with L = mean NLL(x).

    v_b are the held model's logits. The result is both models, combined at every token: nothing is removed from the weights.

    Deviations: the paper replaces names by a dictionary of generic ones too, takes these logits as labels, and fine-tunes the
    model on them; here the combination itself is the unlearned model, and no dictionary is needed.
    """

    lr: float = 3e-4
    epochs: int = 12
    alpha: NotNegative = 5.0

    uses_retain: ClassVar[bool] = False
    paper: ClassVar[str] = "Eldan & Russinovich 2023, arXiv 2310.02238"
    search: ClassVar[Space] = {"lr": Range(1e-5, 3e-3), "alpha": Range(1.0, 30.0)}
    strength: ClassVar[Strength] = Strength("alpha")

    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference) -> Terms:
        return {"forget": Term(nll_sum(model, forget), "tokens", "forget")}

    def unlearn(self, held: Subject, data: UnlearningData, train: Trainer) -> Subject:
        return Subject.difference(held, super().unlearn(held, data, train), self.alpha)
