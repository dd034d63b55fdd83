"""The states between a model's layers as its head would read them: through the last norm, where that alone stands between."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..common.errors import UserError
from .blocks import blocks, text_body
from .logits import PROBE, route, unhooked

# what architectures call the last norm
NORMS = ("final_layer_norm", "final_layernorm", "final_norm", "norm", "ln_f", "norm_f", "ln_out", "embedding_norm")
_READABLE: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def layer_states(model: Any, ids: Tensor) -> tuple[Tensor, ...]:
    """What the head would read [B, T, H] of the embeddings and after each layer; the last is what it does read."""
    if route(model).body is None:
        raise UserError(f"{type(model).__name__} has no body that can be asked alone; layers cannot be read from it.")
    body = model.base_model
    if body not in _READABLE:
        with unhooked(body):
            _READABLE[body] = _readable(body)
    if not _READABLE[body]:
        raise UserError(
            f"More than a norm stands between the last layer of {type(model).__name__} and its head; layers cannot be read from it. "
            "Leave logit_lens out for this architecture."
        )
    layers, last = _watched(body, ids)
    return (*(final_norm(body, torch.cat(states, -1)) for states in list(zip(*layers, strict=True))[:-1]), last)


def final_norm(body: Any, states: Tensor) -> Tensor:
    """The body's last normalisation, which stands between its layers and the head."""
    if len(parts := _parts(body)) > 1:
        split = states.split([p.config.hidden_size for p in parts], -1)
        return torch.cat([final_norm(p, s) for p, s in zip(parts, split, strict=True)], -1)
    for place in (text_body(body), getattr(body, "decoder", None), getattr(body, "transformer", None)):
        for name in NORMS:
            if isinstance(norm := getattr(place, name, None), nn.Module):
                return norm(states)
    raise UserError(f"{type(body).__name__} has no final norm under any of the names {', '.join(NORMS)}; layers cannot be read from it.")


@torch.no_grad()
def _readable(body: Any) -> bool:
    """Whether the norm after the last block gives what the head reads, and each block is passed once."""
    ids = torch.arange(1, 1 + PROBE, device=next(body.parameters()).device)[None]
    layers, last = _watched(body, ids)
    counts = {len(blocks(part)) + 1 for part in _parts(body)}
    if {len(states) for states in layers} != counts or len(counts) != 1:
        return False
    top = torch.cat([states[-1] for states in layers], -1)
    return top.shape == last.shape and torch.allclose(final_norm(body, top), last, rtol=1e-4, atol=1e-4)


def _watched(body: Any, ids: Tensor) -> tuple[list[list[Tensor]], Tensor]:
    """For each model of the body what comes into its first block and out of every one; and what the body gives."""
    kept: list[list[Tensor]] = []
    with ExitStack() as hooks:
        for part in _parts(body):
            states: list[Tensor] = []
            kept.append(states)
            for n, block in enumerate(blocks(part)):
                if n == 0:
                    first = block.register_forward_pre_hook(partial(_keep_input, states), with_kwargs=True)
                    hooks.callback(first.remove)
                hooks.callback(block.register_forward_hook(partial(_keep_output, states)).remove)
        last = body(input_ids=ids, use_cache=False).last_hidden_state
    return kept, last


def _keep_input(states: list[Tensor], _: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
    states.append(args[0] if args else given["hidden_states"])


def _keep_output(states: list[Tensor], _: nn.Module, __: Any, out: Any) -> None:
    states.append(out[0] if isinstance(out, tuple) else out)


def _parts(body: Any) -> list[Any]:
    """The models whose states stand side by side in this body's, as of two models combined at the logits; or the body alone."""
    parts = list(body.children())
    return parts if len(parts) > 1 and all(isinstance(part, PreTrainedModel) for part in parts) else [body]
