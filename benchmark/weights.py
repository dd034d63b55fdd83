"""Changing a model's weights: which of them are the matrices of its body, and a subject with some of them replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .subject import Subject


def linear_weights(model: Any) -> dict[str, Tensor]:
    """Name -> the weight of every linear map of attention and MLPs: neither embeddings nor the language-model head."""
    return {name: m.weight for name, m in _maps(model)}


def by_output(model: Any) -> dict[str, Tensor]:
    """The same, each as [outputs, inputs]; GPT-2's kind of layer keeps its weights the other way round."""
    return {name: m.weight.T if isinstance(m, Conv1D) else m.weight for name, m in _maps(model)}


def as_kept(model: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights [outputs, inputs] the way the model keeps them."""
    turned = {name for name, m in _maps(model) if isinstance(m, Conv1D)}
    return {name: w.T.contiguous() if name in turned else w for name, w in weights.items()}


def _maps(model: Any) -> Iterator[tuple[str, Any]]:
    head = set(model.get_output_embeddings().modules())
    return ((f"{name}.weight", m) for name, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and m not in head)


def replaced(subject: Subject, weights: Mapping[str, Tensor]) -> Subject:
    """A subject with some weights (by name) in place of its own; the others stay as they are."""
    new = {name: w.detach().to("cpu", torch.float32, copy=True) for name, w in weights.items()}
    return subject.with_state({**(subject.state or {}), **new})
