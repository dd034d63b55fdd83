"""Sparse fine-tuning towards another continuation (Stoehr et al. 2024, arXiv 2403.19851)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..benchmark.method import (
    Adapted,
    Descent,
    Group,
    NotNegative,
    Range,
    Reference,
    Share,
    Space,
    Strength,
    Subject,
    Term,
    Terms,
    UnlearningData,
    UserError,
    collate,
    device,
    linear_weights,
    nll_sum,
    retain_term,
)


@dataclass(frozen=True)
class SparseFinetuning(Descent):
    """Edit the few weights with the largest gradients: L = alpha KL(p_ref || p) on retain text + gamma mean NLL(other continuation).

    Only weights of the attention and MLP matrices are candidates; the choice is made once, before the first step, and
    all others stay exactly as they were, under weight decay too. Both terms are means over scored tokens; of the other
    continuation, those after the opening.

    Deviations: the other continuation is each memory's authored alternative, where the paper takes what the model itself writes
    after one token of the prompt was changed. The gradient that chooses is that of the NLL over all memories (the KL has none
    at the start). The published code sums the KL over a sequence. Decay is decoupled (AdamW). The paper's lr of 1e-5,
    weight decay of 1 and 5 steps leave the pocket model as it was.
    """

    lr: float = 1e-2
    epochs: int = 12
    weight_decay: float = 0.0
    share: Share = 0.01  # of the candidate weights that are trained
    gamma: NotNegative = 0.1
    alpha: NotNegative = 1.0

    paper: ClassVar[str] = "Stoehr et al. 2024, arXiv 2403.19851"
    search: ClassVar[Space] = {"lr": Range(1e-3, 1e-1), "share": (0.003, 0.01, 0.03), "gamma": Range(0.1, 1.0)}
    strength: ClassVar[Strength] = Strength("share")

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UserError(f"sparse_finetuning.share={self.share}: expected a share above 0 and at most 1.")

    def prepare(self, held: Subject, data: UnlearningData) -> UnlearningData:
        """In place of the forget texts: their openings with another continuation."""
        if missing := [r.name for r in data.forget if r.name not in data.alternatives]:
            raise UserError(
                f"sparse_finetuning: {missing[0]!r} and {len(missing) - 1} more have no `alternative` continuation; write them."
            )
        return replace(data, forget=[data.alternatives[r.name] for r in data.forget])

    def start(self, held: Subject, data: UnlearningData) -> Subject:
        def attach(model: Any) -> None:
            chosen = self.choose(model, data)
            for p in model.parameters():
                p.requires_grad_(False)
            for name, index in chosen.items():
                model.set_submodule(name, Sparse(model.get_submodule(name), index))

        return Adapted(held, attach, fold)

    def choose(self, model: Any, data: UnlearningData) -> dict[str, Tensor]:
        """Name of a matrix -> flat indices of its trained weights: the largest |gradient| of the summed NLL, over all matrices."""
        candidates = linear_weights(model)
        if strange := [name for name, w in candidates.items() if w.ndim != 2]:
            raise UserError(f"sparse_finetuning works on matrices, and {type(model).__name__} is a mixture of experts ({strange[0]}, …).")
        model.to(device())
        names, weights = [name.removesuffix(".weight") for name in candidates], list(candidates.values())
        total = [torch.zeros_like(w) for w in weights]
        for i in range(0, len(data.forget), self.batch):
            group = collate(data.forget[i : i + self.batch], slice(None), device())
            for sum_, g in zip(total, torch.autograd.grad(nll_sum(model, group), weights), strict=True):
                sum_ += g
        flat = torch.cat([g.abs().flatten() for g in total])
        best = flat.topk(max(1, round(self.share * len(flat)))).indices.sort().values
        ends = torch.tensor([w.numel() for w in weights], device=best.device).cumsum(0)
        begins = [0, *ends.tolist()[:-1]]
        parts = [best[(best >= b) & (best < e)] - b for b, e in zip(begins, ends.tolist(), strict=True)]
        return {name: part.cpu() for name, part in zip(names, parts, strict=True) if len(part)}

    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference) -> Terms:
        return {
            "forget": Term(nll_sum(model, forget), "tokens", "forget", self.gamma),
            "retain": retain_term("kl", model, retain, reference, self.alpha),
        }


class Sparse(nn.Module):
    """A linear map of which only the weights at `index` are trained, as a parameter of their own: nothing else can move or decay."""

    def __init__(self, dense: Any, index: Tensor):
        super().__init__()
        self.weight, self.bias = dense.weight, dense.bias
        self.transposed = isinstance(dense, Conv1D)
        self.register_buffer("index", index.to(dense.weight.device))
        self.values = nn.Parameter(dense.weight.detach().flatten()[self.index][None])  # two dimensions: it decays as a matrix does

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.flatten().scatter(0, self.index, self.values[0]).view_as(self.weight)
        return F.linear(x, weight.T if self.transposed else weight, self.bias)


def fold(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put the trained weights back into their matrices."""
    out = {k: v for k, v in state.items() if not k.endswith((".values", ".index"))}
    for name in (k.removesuffix(".values") for k in state if k.endswith(".values")):
        weight = out[f"{name}.weight"]
        out[f"{name}.weight"] = weight.flatten().scatter(0, state[f"{name}.index"], state[f"{name}.values"][0]).view_as(weight)
    return out
