"""Negative preference optimisation (Zhang et al. 2024, arXiv 2404.05868)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from ..benchmark.method import (
    Descent,
    Group,
    NotNegative,
    Positive,
    Range,
    Reference,
    RetainLoss,
    Space,
    Term,
    Terms,
    retain_term,
    sequence_nll,
)


@dataclass(frozen=True)
class NPO(Descent):
    """Negative preference optimisation: L = -(2/beta) log sigmoid(-beta [log p(x) - log p_ref(x)]), plus a retain term.

    The log-probabilities are sums over the sequence, and those of the held model come from a table.
    """

    lr: float = 3e-4
    epochs: int = 12
    beta: Positive = 0.1
    gamma: NotNegative = 1.0
    alpha: NotNegative = 1.0
    retain_loss: RetainLoss = "nll"  # nll or kl

    paper: ClassVar[str] = "Zhang et al. 2024, arXiv 2404.05868"
    search: ClassVar[Space] = {"lr": Range(1e-5, 3e-3), "beta": Range(0.05, 0.5)}

    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference) -> Terms:
        log_ratio = -sequence_nll(model, forget) - reference.log_probability(forget)
        per_sequence = -2 / self.beta * F.logsigmoid(-self.beta * log_ratio)
        return {
            "forget": Term((per_sequence * forget.real).sum(), "sequences", "forget", self.gamma),
            "retain": retain_term(self.retain_loss, model, retain, reference, self.alpha),
        }
