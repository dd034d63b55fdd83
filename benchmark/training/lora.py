"""Low-rank adapters in training (Hu et al. 2021, arXiv 2106.09685), by peft; what training leaves are ordinary weights."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..common.errors import UserError
from ..common.limits import Count, Positive
from ..models.weights import places

State = dict[str, Tensor]
NAME = "default"  # what peft calls an adapter without a name


@dataclass(frozen=True)
class Lora:
    """W + (alpha / rank) B A for every matrix W of attention and MLPs; A and B are trained, and B begins at 0."""

    rank: Count = 8
    alpha: Positive = 16.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"lora rank {self.rank}: expected at least 1.")


def adapt(model: Any, lora: Lora, seed: int) -> None:
    """Put adapters into a fresh model, in place, and freeze the rest. A matrix that is frozen already gets none.

    Each expert of a mixture gets an adapter of its own.
    """
    from peft import LoraConfig, inject_adapter_in_model

    trained = {name: p for name, p in places(model).items() if getattr(p.owner, p.parameter).requires_grad}
    if not trained:
        raise UserError("LoRA has nothing to adapt: no matrix of attention and MLPs is trained here. Train without LoRA.")
    maps = [name.removesuffix(".weight") for name, p in trained.items() if isinstance(p.owner, nn.Linear | Conv1D)]
    experts = [name for name, p in trained.items() if not isinstance(p.owner, nn.Linear | Conv1D)]
    config = LoraConfig(r=lora.rank, target_modules=maps, target_parameters=experts or None, lora_dropout=0.0, bias="none")
    config.lora_alpha = lora.alpha  # type: ignore[assignment]  # the library reckons with it as a number
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(config, model)
        except ValueError as error:
            passed = "Mamba" in str(error)  # peft then lists modules in an order of its own each time
            why = "its kernels read weights past the modules that would hold adapters." if passed else str(error).splitlines()[0]
            raise UserError(f"{type(model).__name__} cannot be trained with LoRA: {why} Train without LoRA.") from None


def merged(model: Any, state: State) -> State:
    """The full weights of an adapted model (by its own names), with the adapters added in, under the original names.

    Works on the state alone, so it does not matter how the model's own tensors are partitioned.
    """
    from peft.tuners.lora import LoraLayer

    out = dict(state)
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            a, b = (out.pop(f"{name}.lora_{x}.{NAME}.weight").float() for x in "AB")
            weight = _plain(f"{name}.{getattr(layer, 'parameter_name', 'weight')}")
            (key,) = (k for k in out if _plain(k) == weight)
            out[key] = out[key] + (layer.scaling[NAME] * _product(layer, a, b)).to(out[key].dtype)
    return {_plain(k): v for k, v in out.items()}


def _plain(name: str) -> str:
    """The name that a weight had before modules were wrapped; two adapters of one module of experts wrap it twice."""
    return name.replace(".base_layer", "")


def _product(layer: Any, a: Tensor, b: Tensor) -> Tensor:
    """B A, the way the layer keeps its weight: [O, I], or [I, O], or one for each expert."""
    experts = getattr(layer, "num_experts", 0)
    if not experts:
        return (b @ a).T if layer.fan_in_fan_out else b @ a
    change = b.reshape(len(b), -1, experts).permute(2, 0, 1) @ a.reshape(experts, -1, a.shape[1])
    return change.transpose(1, 2) if layer.get_base_layer().is_transposed else change
