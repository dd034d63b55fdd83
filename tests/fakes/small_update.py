"""A fake whose weights all stay in their bins: rounding to 4 bits gives the held model back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from palimpsest.benchmark.method import Adapted, UnlearningData
from palimpsest.benchmark.models.quantisation import bins, round_by_torchao, round_to_nearest
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.models.weights import linear_weights
from palimpsest.methods.npo import NPO

GROUP = 32  # weights of a row that share a bin
INSIDE = 0.98  # share of a bin that is used, so that no rounding error can matter


@dataclass(frozen=True)
class SmallUpdate(NPO):
    """Fake: NPO that moves no weight by half an int4 bin, nor over a boundary of rounding (projected gradient).

    Bins are those of levels around 0 and those of levels over a group's own range, both in groups of 32.
    """

    lr: float = 3e-4
    epochs: int = 12

    def start(self, held: Subject, data: UnlearningData) -> Subject:
        model = held.fresh()
        names = list(linear_weights(model))
        allowed = {name: bounds(model.get_parameter(name).detach()) for name in names}

        def attach(copy: Any) -> None:
            """Train the matrices of the blocks only, and put them back between their bounds before each pass."""
            for name, p in copy.named_parameters():
                p.requires_grad_(name in allowed)
            trained = {name: copy.get_parameter(name) for name in allowed}
            copy.base_model.register_forward_pre_hook(lambda *_: project(trained))

        def project(weights: dict[str, Tensor]) -> None:
            for name, (low, high) in allowed.items():
                w = weights[name].data  # a step's second pass changes nothing, which autograd could not know
                w.copy_(w.clamp(low.to(w.device), high.to(w.device)))

        def fold(state: dict[str, Tensor]) -> dict[str, Tensor]:
            project(state)
            return state

        return Adapted(held, attach, fold)


def bounds(weight: Tensor) -> tuple[Tensor, Tensor]:
    """How low and how high each weight [N, M] may go so that neither kind of int4 bin tells; M is a multiple of GROUP.

    Each group's largest and smallest weights stay as they are, since they set the size of the bins.
    """
    w = weight.reshape(len(weight), -1, GROUP)
    least, most = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
    symmetric = within(w, round_to_nearest(weight, 4, GROUP).view_as(w), bins(w, 4))
    own_range = within(w, round_by_torchao(weight, 4, GROUP, symmetric=False).view_as(w), (most.clamp(min=0) - least.clamp(max=0)) / 15)
    low, high = torch.maximum(symmetric[0], own_range[0]).clamp(min=least), torch.minimum(symmetric[1], own_range[1]).clamp(max=most)
    fixed = (w == least) | (w == most)
    return torch.where(fixed, w, low).view_as(weight), torch.where(fixed, w, high).view_as(weight)


def within(w: Tensor, centre: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the most that keep a weight in its bin, of this size around `centre`, and less than half a bin away."""
    reach = INSIDE * size / 2
    return (torch.maximum(centre, w) - reach).minimum(w), (torch.minimum(centre, w) + reach).maximum(w)
