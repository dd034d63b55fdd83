"""How a model makes logits of the states behind its body: its head alone, or with what its own forward pass does there besides.

Some architectures cap, scale or divide logits behind the head, some change states before it. Which does is asked of the model
itself, once: its own forward pass runs with body and head stood in for. Whoever wants logits of states gets them here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from transformers.modeling_outputs import BaseModelOutput

PROBE = 4  # tokens with which a model is tried


@dataclass(frozen=True)
class Route:
    """From the states of one model's body to its logits."""

    vocabulary: int  # logits at a position
    plain: bool = False  # the head alone makes them
    body: nn.Module | None = None  # what gives the states in the model's own forward pass; None: it has no such part
    output: Callable[..., Any] = BaseModelOutput  # what the body's answers are made by


_ROUTES: WeakKeyDictionary[nn.Module, Route] = WeakKeyDictionary()


def route(model: Any) -> Route:
    """The model's route, found when first asked; ZeRO-3 must not have taken the weights apart by then."""
    if model not in _ROUTES:
        with unhooked(model), _disable_current_modes():  # a counter of FLOPs, say: this is no part of the work
            _ROUTES[model] = _found(model)
    return _ROUTES[model]


def hidden_states(model: Any, ids: Tensor) -> Tensor:
    """The states [B, T, H] that `logits_of` reads. Right padding needs no mask under a causal model.

    They are the logits themselves where a model has no body that can be asked alone.
    """
    if route(model).body is None:
        return own_logits(model, ids)
    return model.base_model(input_ids=ids, use_cache=False).last_hidden_state


def logits_of(model: Any, states: Tensor) -> Tensor:
    """The model's own logits [..., V] from states [..., H]."""
    way = route(model)
    if way.plain:
        return model.get_output_embeddings()(states)
    if way.body is None:
        return states
    flat = states.reshape(1, -1, states.shape[-1])
    return _behind(model, way, flat).view(*states.shape[:-1], -1)


def own_logits(model: Any, ids: Tensor) -> Tensor:
    """Logits [B, T, V] by the model's own forward pass."""
    return model(input_ids=ids, use_cache=False).logits


def _behind(model: Any, way: Route, states: Tensor) -> Tensor:
    """What the model's own forward pass makes of states [1, N, H] in place of its body's."""
    assert way.body is not None
    with instead(way.body, lambda *_, **__: way.output(last_hidden_state=states)):
        return own_logits(model, torch.zeros(states.shape[:2], dtype=torch.long, device=states.device))


@torch.no_grad()
def _found(model: Any) -> Route:
    device = next(model.parameters()).device
    ids = torch.arange(1, 1 + PROBE, device=device)[None]
    for body in _bodies(model):
        answers: list[Any] = []
        with instead(body, _kept(body.forward, answers)):
            own = own_logits(model, ids)
        if len(answers) != 1 or not hasattr(answers[0], "last_hidden_state"):
            continue
        states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        way = Route(own.shape[-1], body=body, output=type(answers[0]))
        if _same(_behind(model, way, states), own):
            return Route(way.vocabulary, _is_plain(model, way, states), way.body, way.output)
    return Route(own_logits(model, ids).shape[-1])


def _bodies(model: Any) -> Iterator[nn.Module]:
    """What the model's own forward pass may ask for states: its base model, or the decoder in that."""
    places = (getattr(model, "base_model", None), getattr(getattr(model, "base_model", None), "decoder", None))
    return (place for place in places if isinstance(place, nn.Module) and place is not model)


def _is_plain(model: Any, way: Route, states: Tensor) -> bool:
    """Whether the head reads the very states, and what it says, however large, are the logits."""
    head = model.get_output_embeddings()
    if head is None:
        return False
    read: list[Tensor] = []
    said = torch.linspace(-1e4, 1e4, head(states).numel(), dtype=states.dtype, device=states.device).view(head(states).shape)
    with instead(head, lambda x: read.append(x) or said):
        found = _behind(model, way, states)
    return len(read) == 1 and torch.equal(read[0], states) and torch.equal(found, said)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max().nan_to_num()), equal_nan=True)


def _kept(forward: Callable[..., Any], answers: list[Any]) -> Callable[..., Any]:
    def keep(*args: Any, **given: Any) -> Any:
        answers.append(forward(*args, **given))
        return answers[-1]

    return keep


@contextmanager
def unhooked(model: nn.Module) -> Iterator[None]:
    """While this lasts nobody who watches or changes the model's passes sees any; the library's own hooks stay."""
    tables = [table for m in model.modules() for table in (m._forward_hooks, m._forward_pre_hooks)]
    before = [dict(table) for table in tables]
    for table in tables:
        for key in [k for k, hook in table.items() if not getattr(hook, "__module__", "").startswith("transformers.")]:
            del table[key]
    try:
        yield
    finally:
        for table, kept in zip(tables, before, strict=True):
            new = {k: hook for k, hook in table.items() if k not in kept}
            table.clear()
            table.update({**kept, **new})


@contextmanager
def instead(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """While this lasts the module answers by `forward`; one that stood in already stands in again afterwards."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
