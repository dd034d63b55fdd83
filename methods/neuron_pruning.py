"""Pruning of MLP neurons that hard-concrete gates choose (Louizos et al. 2018, arXiv 1712.01312; Chang et al. 2024, arXiv 2311.09060)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..benchmark.method import (
    Adapted,
    Descent,
    Group,
    NotNegative,
    Part,
    Positive,
    Range,
    Reference,
    Space,
    Strength,
    Subject,
    Term,
    Terms,
    UnlearningData,
    blocks,
    down_projection,
    nll_sum,
    rng,
)

LOW, HIGH = -0.1, 1.1  # the stretch of the hard-concrete distribution


@dataclass(frozen=True)
class NeuronPruning(Descent):
    """Close gates on MLP neurons: L = -gamma mean NLL(x) + penalty L0, where L0 is the expected share of closed hard-concrete gates.

    A gate per neuron (an input of an MLP's output matrix) is z = clip(1.2 s - 0.1, 0, 1), s = sigmoid((log u/(1-u) + a) / beta), with
    u drawn per sequence and step; P(z = 0) = sigmoid(beta log(.1/1.1) - a). Only the a are trained. Neurons whose gate without noise,
    clip(1.2 sigmoid(a) - 0.1, 0, 1), ends below `threshold` are cut out of the weights; all others stay as they were.

    Deviations: Chang et al. look for the neurons that suffice to say the text (minimise its NLL and the share of *open* gates)
    and prune those; here the gates that destroy it are sought directly. lr is larger than their 1e-3, which takes thousands of steps.
    """

    lr: float = 0.3
    epochs: int = 12
    gamma: NotNegative = 1.0
    penalty: NotNegative = 10.0
    beta: Positive = 0.33
    initial: Part = 0.9  # the gates without noise, before the first step
    threshold: Part = 0.5

    uses_retain: ClassVar[bool] = False
    paper: ClassVar[str] = "Louizos et al. 2018, arXiv 1712.01312; Chang et al. 2024, arXiv 2311.09060"
    search: ClassVar[Space] = {"lr": Range(0.03, 1.0), "penalty": Range(1.0, 50.0)}
    strength: ClassVar[Strength] = Strength("penalty", power=-1)

    def start(self, held: Subject, data: UnlearningData) -> Subject:
        axes: dict[str, int] = {}

        def attach(model: Any) -> None:
            for p in model.parameters():
                p.requires_grad_(False)
            for name in [down_projection(model, layer) for layer in range(len(blocks(model)))]:
                gated = Gated(model.get_submodule(name), self.initial, self.beta)
                axes[name] = gated.axis
                model.set_submodule(name, gated)

        return Adapted(held, attach, lambda state: fold(state, axes, self.threshold))

    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference) -> Terms:
        gates = [m for m in model.modules() if isinstance(m, Gated)]
        widths = [g.width for g in gates]
        noise = np.stack([rng(reference.seed, "gates", s).random(sum(widths), dtype=np.float32) for s in forget.serial.tolist()])
        for gate, part in zip(gates, torch.from_numpy(noise).to(forget.ids.device).split(widths, 1), strict=True):
            gate.noise = part[:, None]
        nll = nll_sum(model, forget)
        closed = torch.cat([g.closed for g in gates]).mean()
        return {
            "forget": Term(nll, "tokens", "forget", -self.gamma),
            "penalty": Term(closed * forget.real.sum(), "sequences", "forget", self.penalty),  # the mean over sequences is L0 itself
        }


class Gated(nn.Module):
    """An MLP's output matrix behind one hard-concrete gate per neuron. `noise` [B, 1, neurons] in (0, 1) is set before each pass."""

    noise: Tensor | None = None  # until a loss has set it, all gates are open
    closed: Tensor  # [neurons], the probability that each gate is 0, as of the last pass

    def __init__(self, dense: Any, initial: float, beta: float):
        super().__init__()
        self.inner, self.beta = dense, beta
        self.axis = 0 if isinstance(dense, Conv1D) else 1  # of the weights along which the neurons lie
        self.width = dense.weight.shape[self.axis]
        s = (initial - LOW) / (HIGH - LOW)
        self.logit = nn.Parameter(dense.weight.new_full((self.width,), math.log(s / (1 - s))))

    def forward(self, x: Tensor) -> Tensor:
        if self.noise is None:
            return self.inner(x)
        u = self.noise.clamp(1e-4, 1 - 1e-4)
        self.closed = torch.sigmoid(self.beta * math.log(-LOW / HIGH) - self.logit)
        return self.inner(x * stretched(torch.sigmoid((u.logit() + self.logit) / self.beta)))


def stretched(s: Tensor) -> Tensor:
    return (s * (HIGH - LOW) + LOW).clamp(0, 1)


def fold(state: dict[str, Tensor], axes: dict[str, int], threshold: float) -> dict[str, Tensor]:
    """Cut the neurons behind closed gates out of the weights, and drop the gates. `axes`: name of a gate -> axis of its neurons."""
    inner = {f"{name}.inner.": f"{name}." for name in axes}
    out = {}
    for k, v in state.items():
        begin = next((i for i in inner if k.startswith(i)), "")
        if not k.endswith(".logit"):
            out[inner.get(begin, "") + k.removeprefix(begin)] = v
    for name, axis in axes.items():
        open_ = stretched(torch.sigmoid(state[f"{name}.logit"])) >= threshold
        out[f"{name}.weight"] = out[f"{name}.weight"] * (open_ if axis == 1 else open_[:, None])
    return out
