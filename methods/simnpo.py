"""Simple negative preference optimisation (Fan et al. 2024, arXiv 2410.07163)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from ..benchmark.method import (
    IGNORED,
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
class SimNPO(Descent):
    """NPO without a reference: L = -(2/beta) log sigmoid(beta [NLL(x)/|x| - delta]), length-normalised, plus a retain term."""

    lr: float = 3e-4
    epochs: int = 12
    beta: Positive = 4.5
    delta: NotNegative = 0.0
    gamma: NotNegative = 0.125
    alpha: NotNegative = 1.0
    retain_loss: RetainLoss = "nll"  # nll or kl

    paper: ClassVar[str] = "Fan et al. 2024, arXiv 2410.07163"
    search: ClassVar[Space] = {"lr": Range(1e-5, 3e-3), "beta": Range(2.0, 6.0), "delta": (0.0, 1.0), "gamma": Range(0.1, 1.0)}

    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference) -> Terms:
        scored = (forget.labels[:, 1:] != IGNORED).sum(1).clamp(min=1)
        per_sequence = -2 / self.beta * F.logsigmoid(self.beta * (sequence_nll(model, forget) / scored - self.delta))
        return {
            "forget": Term((per_sequence * forget.real).sum(), "sequences", "forget", self.gamma),
            "retain": retain_term(self.retain_loss, model, retain, reference, self.alpha),
        }
