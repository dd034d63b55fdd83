"""Gradient ascent on the forget set (Jang et al. 2023, arXiv 2210.01504)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..benchmark.method import Descent, Group, Reference, Term, Terms, nll_sum


@dataclass(frozen=True)
class GradientAscent(Descent):
    """Gradient ascent: raise the loss of the forget texts, L = -mean NLL(x), with no retain term."""

    lr: float = 3e-5
    epochs: int = 12

    uses_retain: ClassVar[bool] = False
    paper: ClassVar[str] = "Jang et al. 2023, arXiv 2210.01504"

    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference) -> Terms:
        return {"forget": Term(nll_sum(model, forget), "tokens", "forget", -1.0)}
