"""The parts of a transformer that methods and attacks ask for: its blocks, their output matrices, the states between them."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..common.errors import UserError
from .logits import hidden_states

_MLP = re.compile(r"mlp|feed_forward|ffn|fc2")


def blocks(model: Any) -> nn.ModuleList:
    """The list of transformer blocks, first to last."""
    count = (model.config.get_text_config(decoder=True) if hasattr(model.config, "get_text_config") else model.config).num_hidden_layers
    for part in text_body(model.base_model).modules():
        if isinstance(part, nn.ModuleList) and len(part) == count:
            return part
    raise UserError(f"{type(model).__name__} holds no list of its {count} blocks; expected an architecture of the library transformers.")


def text_body(body: Any) -> Any:
    """The language model's body in a multimodal one."""
    return getattr(body, "language_model", body)


def down_projection(model: Any, layer: int) -> str:
    """Name of the linear map with which the MLP of block `layer` writes its output."""
    parts = set(blocks(model)[layer].modules())
    if any(hasattr(m, "is_transposed") for m in parts):  # the library's mark of a layer of experts
        raise UserError(f"{type(model).__name__} is a mixture of experts: block {layer} has no single matrix with which its MLP writes.")
    maps = [name for name, m in model.named_modules() if m in parts and isinstance(m, nn.Linear | Conv1D)]
    names = [name for name in maps if _MLP.search(name.rpartition(f".{layer}.")[2])]
    if not names:
        raise UserError(f"Block {layer} of {type(model).__name__} has no MLP that goes by a known name (mlp, feed_forward, ffn, fc2).")
    return names[-1]


def states_after(model: Any, ids: Tensor, layer: int) -> Tensor:
    """The residual stream [B, T, H] after block `layer` (from 0), from one forward pass of the body."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, out: Any) -> None:
        kept.append(out[0] if isinstance(out, tuple) else out)

    hook = blocks(model)[layer].register_forward_hook(keep)
    try:
        hidden_states(model, ids)
    finally:
        hook.remove()
    return kept[0]
