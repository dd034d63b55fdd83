"""Cross-entropy unlearning (Yang et al. 2025, arXiv 2503.01224)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from ..benchmark.method import Descent, Group, Reference, Term, Terms, scored_logits


@dataclass(frozen=True)
class CEU(Descent):
    """Cross-entropy towards one's own prediction without the true token: L = mean CE(z, softmax(stopgrad z, z_y = -inf)).

    Deviation: every scored token counts; the paper (in a footnote) and Open Unlearning leave out the first token of each answer.
    """

    lr: float = 3e-5
    epochs: int = 12

    uses_retain: ClassVar[bool] = False
    paper: ClassVar[str] = "Yang et al. 2025, arXiv 2503.01224"

    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference) -> Terms:
        logits, labels, _ = scored_logits(model, forget)
        logits = logits.float()
        target = logits.detach().scatter(1, labels[:, None], -float("inf")).softmax(-1)
        return {"forget": Term(F.cross_entropy(logits, target, reduction="sum"), "tokens", "forget")}
