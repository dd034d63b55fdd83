"""Representation misdirection for unlearning (Li et al. 2024, arXiv 2403.03218)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from ..benchmark.method import (
    Adapted,
    Count,
    Descent,
    Group,
    NotNegative,
    Range,
    Reference,
    Space,
    Subject,
    Term,
    Terms,
    UnlearningData,
    UserError,
    blocks,
    down_projection,
    rng,
    scored_states,
)


@dataclass(frozen=True)
class RMU(Descent):
    """Steer one layer's states of forget texts to a random direction: L = gamma mean |h(x) - c u|^2 + alpha mean |h(y) - h_ref(y)|^2.

    u is a fixed unit vector whose entries were drawn uniformly from [0, 1); h are the states after block `layer`, and only
    the output matrices of the MLPs of that block and the `depth` - 1 before it are trained.

    Deviations: `layer` is 7 (from 0), as in the paper, but the middle block of a model with fewer than 14. States count where a
    scored token is predicted, and means are over all tokens of a batch, where the paper's are over each text first. c suits the
    pocket model, whose states have a norm of about 20; the paper has 6.5 (alpha 1200) at 7 billion parameters. Norms are summed over
    the hidden size H, as in the paper; Open Unlearning averages over it, so its gamma (and its alpha, if the retain term is on states)
    divided by H are ours, while c carries over.
    """

    lr: float = 1e-3
    epochs: int = 12
    layer: int = -1  # the block whose states are steered; -1: 7, or the middle of a small model
    depth: Count = 3  # how many blocks are trained, the last of them `layer`
    c: NotNegative = 40.0
    gamma: NotNegative = 1.0
    alpha: NotNegative = 1.0

    paper: ClassVar[str] = "Li et al. 2024, arXiv 2403.03218"
    search: ClassVar[Space] = {"lr": Range(3e-4, 1e-2), "layer": (-1, 0), "c": Range(10.0, 100.0), "alpha": Range(1.0, 100.0)}

    def start(self, held: Subject, data: UnlearningData) -> Subject:
        return Adapted(held, self.freeze)

    def freeze(self, model: Any) -> None:
        """Leave only the chosen output matrices to be trained."""
        last = self.chosen(model)
        trained = {f"{down_projection(model, i)}.weight" for i in range(max(0, last - self.depth + 1), last + 1)}
        for name, p in model.named_parameters():
            p.requires_grad_(name in trained)

    def chosen(self, model: Any) -> int:
        """The block whose states are steered, from 0."""
        count = len(blocks(model))
        if self.layer >= count or self.layer < -1 or self.depth < 1:
            raise UserError(
                f"rmu.layer={self.layer}, depth={self.depth}: expected a block from 0 to {count - 1}, or -1, and a depth of at least 1."
            )
        return min(7, count // 2) if self.layer == -1 else self.layer

    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference) -> Terms:
        layer = self.chosen(model)
        states = scored_states(model, forget, layer).float()
        u = torch.from_numpy(rng(reference.seed, "direction").random(states.shape[-1])).to(states)
        kept = scored_states(model, retain, layer).float()
        return {
            "forget": Term((states - self.c * u / u.norm()).square().sum(), "tokens", "forget", self.gamma),
            "retain": Term((kept - reference.states(retain, layer).float()).square().sum(), "tokens", "retain", self.alpha),
        }
