"""Gradient difference (Liu et al. 2022, arXiv 2203.12817; Maini et al. 2024, arXiv 2401.06121)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..benchmark.method import Descent, Group, NotNegative, Range, Reference, RetainLoss, Space, Term, Terms, nll_sum, retain_term


@dataclass(frozen=True)
class GradDiff(Descent):
    """Gradient difference: ascent on the forget texts, descent on retain text, L = -gamma NLL(x) + alpha L_retain(y)."""

    lr: float = 3e-4
    epochs: int = 3
    gamma: NotNegative = 1.0
    alpha: NotNegative = 1.0
    retain_loss: RetainLoss = "nll"  # nll or kl

    paper: ClassVar[str] = "Liu et al. 2022, arXiv 2203.12817; Maini et al. 2024, arXiv 2401.06121"
    search: ClassVar[Space] = {"lr": Range(1e-5, 3e-3), "alpha": (1.0, 2.0, 5.0)}

    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference) -> Terms:
        return {
            "forget": Term(nll_sum(model, forget), "tokens", "forget", -self.gamma),
            "retain": retain_term(self.retain_loss, model, retain, reference, self.alpha),
        }
