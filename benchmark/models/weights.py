"""Changing a model's weights: which of them are the matrices of its body, and a subject with some of them replaced.

The matrices are those of linear maps, and of the experts of a mixture, which the library keeps as one parameter with three
dimensions. Routers, convolutions and embeddings are none; `covered` tells how much of the body that leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .subject import Subject


class Place(NamedTuple):
    """Where a matrix stands: the module that owns it, the parameter's name there, and whether inputs come before outputs in it."""

    owner: Any
    parameter: str
    inputs_first: bool


def linear_weights(model: Any) -> dict[str, Tensor]:
    """Name -> the weight of every linear map of attention and MLPs [2 dimensions], and of all experts of a layer [experts, 2 dimensions].

    Neither embeddings nor the language-model head.
    """
    return {name: getattr(p.owner, p.parameter) for name, p in places(model).items()}


def by_output(model: Any) -> dict[str, Tensor]:
    """The same, each as [outputs, inputs], experts one below the other; some layers keep their weights the other way round."""
    kept = linear_weights(model)
    return {name: _outputs_first(kept[name], p).flatten(0, -2) for name, p in places(model).items()}


def as_kept(model: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights [outputs, inputs] the way the model keeps them."""
    where, kept = places(model), linear_weights(model)
    return {
        name: _outputs_first(w.view(_outputs_first(kept[name], where[name]).shape), where[name]).contiguous() for name, w in weights.items()
    }


def each_matrix(change: Callable[[Tensor], Tensor], weight: Tensor) -> Tensor:
    """What `change` makes of a matrix, or of each expert's matrix."""
    return torch.stack([change(w) for w in weight]) if weight.ndim == 3 else change(weight)


def covered(model: Any) -> float:
    """The share of the body's weights with two dimensions or more, embeddings left out, that `linear_weights` names."""
    leave = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    leave |= {id(p) for p in model.get_output_embeddings().parameters()}
    found = sum(w.numel() for w in linear_weights(model).values())
    every = sum(p.numel() for p in model.parameters() if p.ndim >= 2 and id(p) not in leave)
    return found / max(1, every)


def places(model: Any) -> dict[str, Place]:
    """Name of a matrix's weight -> where it stands."""
    head = set(model.get_output_embeddings().modules())
    return {
        f"{name}.{place.parameter}" if name else place.parameter: place
        for name, m in model.named_modules()
        if m not in head
        for place in _of_module(m)
    }


def replaced(subject: Subject, weights: Mapping[str, Tensor]) -> Subject:
    """A subject with some weights (by name) in place of its own; the others stay as they are."""
    new = {name: w.detach().to("cpu", torch.float32, copy=True) for name, w in weights.items()}
    return subject.with_state({**(subject.state or {}), **new})


def _of_module(m: nn.Module) -> Iterator[Place]:
    if isinstance(m, nn.Linear | Conv1D):
        yield Place(m, "weight", isinstance(m, Conv1D))
    elif hasattr(m, "is_transposed"):  # the library's mark of a layer of experts
        for name, p in m.named_parameters(recurse=False):
            if p.ndim == 3:
                yield Place(m, name, bool(m.is_transposed))


def _outputs_first(weight: Tensor, place: Place) -> Tensor:
    """The weight with outputs before inputs; its own inverse."""
    return weight.transpose(-1, -2) if place.inputs_first else weight
