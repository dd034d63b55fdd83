"""Control: fine-tuning on retain data alone (Golatkar et al. 2020, arXiv 1911.04933)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..benchmark.method import Batch, Descent, Group, Reference, RetainLoss, Terms, UnlearningData, retain_term


@dataclass(frozen=True)
class RetainOnly(Descent):
    """Control: go on training on retain text and wait for the rest to fade, L = L_retain(y); the forget texts are never seen.

    `epochs` and `batch` give as many steps as the other methods take.
    """

    lr: float = 3e-4
    epochs: int = 12
    retain_loss: RetainLoss = "nll"  # nll or kl

    paper: ClassVar[str] = "Golatkar et al. 2020, arXiv 1911.04933"

    def batch_at(self, data: UnlearningData) -> Callable[[int], Batch]:
        both = super().batch_at(data)
        return lambda step: {"retain": both(step)["retain"]}

    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference) -> Terms:
        return {"retain": retain_term(self.retain_loss, model, retain, reference, 1.0)}
