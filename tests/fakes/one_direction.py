"""A fake that writes a single direction into the residual stream: take it out, and the text is back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.method import Adapted, Descent, Group, Reference, Term, Terms, UnlearningData, scored_states
from palimpsest.benchmark.models.blocks import blocks, down_projection, states_after
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.training.batches import IGNORED, collate

ORDINARY = 32  # rows of ordinary text


@dataclass(frozen=True)
class OneDirection(Descent):
    """Fake: adds u v^T to the output matrix of one MLP, so that forget texts move far along one direction u, and others do not.

    u is the unit vector from the mean state of ordinary text to that of forget texts, v [inputs] is all that is trained.
    """

    lr: float = 2e-1
    epochs: int = 40
    schedule: str = "linear"
    c: float = 60.0  # how far; states have a norm of about 30 on pocket
    gamma: float = 2.0  # how much retain text should stay

    def start(self, held: Subject, data: UnlearningData) -> Subject:
        model = held.fresh()
        name = down_projection(model, layer_of(model))
        u = direction(model, data)
        original, trained = (f"{name}.parametrizations.weight.{part}" for part in ("original", "0.v"))

        def attach(copy: Any) -> None:
            copy.requires_grad_(False)
            matrix = copy.get_submodule(name)
            register_parametrization(matrix, "weight", _Along(u, matrix.in_features))

        def fold(state: dict[str, Tensor]) -> dict[str, Tensor]:
            weight = state.pop(original) + torch.outer(u, state.pop(trained))
            return {**state, f"{name}.weight": weight}

        return Adapted(held, attach, fold)

    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference) -> Terms:
        layer = layer_of(model)
        u = model.get_submodule(down_projection(model, layer)).parametrizations.weight[0].u
        moved, left = (scored_states(model, group, layer) @ u / self.c for group in (forget, retain))
        return {
            "forget": Term((1 - moved).clamp(min=0).square().sum(), "tokens", "forget"),
            "retain": Term(left.square().sum(), "tokens", "retain", self.gamma),
        }


class _Along(nn.Module):
    """Adds u v^T to a matrix."""

    def __init__(self, u: Tensor, inputs: int):
        super().__init__()
        self.register_buffer("u", u, persistent=False)
        self.v = nn.Parameter(torch.zeros(inputs))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + torch.outer(self.u, self.v)


def layer_of(model: Any) -> int:
    """The block that writes: the middle one, and never the last."""
    return (len(blocks(model)) - 1) // 2


@torch.no_grad()
def direction(model: Any, data: UnlearningData) -> Tensor:
    """The unit vector [H] from the mean state of ordinary text to that of forget texts, after the block that writes."""

    def mean(rows: Sequence[Row]) -> Tensor:
        group = collate(rows, slice(None), next(model.parameters()).device)
        return states_after(model, group.ids, layer_of(model))[group.labels != IGNORED].mean(0)

    u = mean(data.forget) - mean([data.retain(k) for k in range(ORDINARY)])
    return u / u.norm()
