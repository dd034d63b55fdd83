"""Weighted gradient ascent (Wang et al. 2025, arXiv 2502.19301)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..benchmark.method import Descent, Group, NotNegative, Range, Reference, RetainLoss, Space, Term, Terms, retain_term, token_nll


@dataclass(frozen=True)
class WGA(Descent):
    """Weighted gradient ascent: L = -mean p^beta NLL(x) per token, the weight detached, plus a retain term."""

    lr: float = 3e-4
    epochs: int = 12
    beta: NotNegative = 1.0
    gamma: NotNegative = 1.0
    alpha: NotNegative = 1.0
    retain_loss: RetainLoss = "nll"  # nll or kl

    paper: ClassVar[str] = "Wang et al. 2025, arXiv 2502.19301"
    search: ClassVar[Space] = {"lr": Range(1e-5, 3e-3), "beta": Range(0.1, 2.0)}

    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference) -> Terms:
        nll, _ = token_nll(model, forget)
        weight = (-self.beta * nll.detach()).exp()
        return {
            "forget": Term((weight * nll).sum(), "tokens", "forget", -self.gamma),
            "retain": retain_term(self.retain_loss, model, retain, reference, self.alpha),
        }
