"""Control: fine-tuning on random labels (Golatkar et al. 2020, arXiv 1911.04933; Yao et al. 2024, arXiv 2402.15159)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from ..benchmark.method import IGNORED, Descent, Group, Reference, Term, Terms, nll_sum, rng, route


@dataclass(frozen=True)
class RandomLabels(Descent):
    """Control: learn random tokens in place of the forget texts' own, L = mean NLL(r_t | x_<t), r uniform over the vocabulary.

    The tokens are drawn anew at each step.

    Deviations: none; no retain term, since a control should have no part that repairs.
    """

    lr: float = 3e-5
    epochs: int = 12

    uses_retain: ClassVar[bool] = False
    paper: ClassVar[str] = "Golatkar et al. 2020, arXiv 1911.04933; Yao et al. 2024, arXiv 2402.15159"

    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference) -> Terms:
        size, length = route(model).vocabulary, forget.labels.shape[1]
        drawn = np.stack([rng(reference.seed, "labels", s).integers(size, size=length) for s in forget.serial.tolist()])
        labels = torch.from_numpy(drawn).to(forget.labels).masked_fill(forget.labels == IGNORED, IGNORED)
        return {"forget": Term(nll_sum(model, replace(forget, labels=labels)), "tokens", "forget")}
