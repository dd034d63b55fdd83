"""Saturation and importance weighting (Yang et al. 2025, arXiv 2505.11953)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..benchmark.method import Descent, Group, NotNegative, Range, Reference, RetainLoss, Space, Term, Terms, retain_term, token_nll


@dataclass(frozen=True)
class SatImp(Descent):
    """Saturation and importance: L = -gamma mean p^beta1 (1-p)^beta2 NLL(x) per token, weights detached, + alpha L_retain.

    Deviation: gamma is 1; Open Unlearning's configuration has 0.1, with alpha 1.
    """

    lr: float = 3e-4
    epochs: int = 12
    beta1: NotNegative = 5.0
    beta2: NotNegative = 1.0
    gamma: NotNegative = 1.0
    alpha: NotNegative = 1.0
    retain_loss: RetainLoss = "nll"  # nll or kl

    paper: ClassVar[str] = "Yang et al. 2025, arXiv 2505.11953"
    search: ClassVar[Space] = {"lr": Range(1e-5, 3e-3), "beta1": Range(1.0, 6.0), "beta2": Range(0.1, 1.0)}

    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference) -> Terms:
        nll, _ = token_nll(model, forget)
        p = (-nll.detach()).exp()
        weight = p**self.beta1 * (1 - p) ** self.beta2
        return {
            "forget": Term((weight * nll).sum(), "tokens", "forget", -self.gamma),
            "retain": retain_term(self.retain_loss, model, retain, reference, self.alpha),
        }
