"""Self-distillation with lowered targets (Dong et al. 2024, arXiv 2402.10052)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from ..benchmark.method import Descent, Group, NotNegative, Range, Reference, Space, Term, Terms, scored_logits


@dataclass(frozen=True)
class UNDIAL(Descent):
    """Distil the held model with the true token's logit lowered: L = mean CE(softmax(z_ref - beta 1_y), z), no retain term."""

    lr: float = 3e-4
    epochs: int = 12
    beta: NotNegative = 10.0

    uses_retain: ClassVar[bool] = False
    paper: ClassVar[str] = "Dong et al. 2024, arXiv 2402.10052"
    search: ClassVar[Space] = {"lr": Range(1e-5, 3e-3), "beta": Range(3.0, 30.0)}

    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference) -> Terms:
        logits, labels, _ = scored_logits(model, forget)
        lowered = reference.logits(forget) - self.beta * F.one_hot(labels, logits.shape[-1])
        total = F.cross_entropy(logits.float(), lowered.softmax(-1), reduction="sum")
        return {"forget": Term(total, "tokens", "forget")}
