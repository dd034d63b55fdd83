"""The residual stream of one model: read whole, gone on with from any layer, and what attention and MLP add to it.

Nothing here knows an architecture's name. Whether a model can be taken apart so is tried on it, and refused by name where it cannot.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..common.errors import UserError
from ..models.blocks import blocks
from ..models.logits import hidden_states, instead, logits_of, route
from ..models.subject import Subject

PROBE = 6  # tokens with which a model is tried
COMPONENTS = ("attention", "mlp")
NAMED = {"attention": re.compile(r"(self_)?(attn|attention)"), "mlp": re.compile(r"mlp|feed_forward|ffn")}


class Stream:
    """What flows between the blocks of one model. Layer n is what block n (from 0) reads; the last layer is what the last block gives."""

    def __init__(self, subject: Subject):
        self.model = subject.model
        self.name = type(self.model).__name__
        if subject.composition is not None:
            raise UserError(f"{subject.folder} is made of several models; its residual stream cannot be read. Ask each of its parts.")
        if route(self.model).body is None:
            raise UserError(f"{self.name} has no body that can be asked alone; its residual stream cannot be read.")
        self.device = next(self.model.parameters()).device
        self.blocks = list(blocks(self.model))
        self.tuples: list[bool] = []
        self._try()

    @torch.no_grad()
    def read(self, ids: Tensor) -> list[Tensor]:
        """The states [B, T, H] at every layer, one forward pass: one more than there are blocks."""
        states: list[Tensor] = []

        def keep_input(_: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
            states.append(args[0] if args else given["hidden_states"])

        def keep_output(_: nn.Module, __: Any, out: Any) -> None:
            self.tuples.append(isinstance(out, tuple))
            states.append(first_of(out))

        self.tuples.clear()
        with ExitStack() as hooks:
            hooks.callback(self.blocks[0].register_forward_pre_hook(keep_input, with_kwargs=True).remove)
            for block in self.blocks:
                hooks.callback(block.register_forward_hook(keep_output).remove)
            hidden_states(self.model, ids)
        return states

    def go_on(self, ids: Tensor, layer: int, states: Tensor) -> Tensor:
        """What the head reads [B, T, H] if the stream at `layer` is `states`; the blocks before it are stepped over, not computed."""
        with ExitStack() as stack:
            for n in range(layer):
                put = states if n == layer - 1 else None
                stack.enter_context(instead(self.blocks[n], self._step_over(n, put)))
            if layer == 0:
                stack.callback(self.blocks[0].register_forward_pre_hook(_enters(states), with_kwargs=True).remove)
            return hidden_states(self.model, ids)

    def logits(self, states: Tensor) -> Tensor:
        return logits_of(self.model, states)

    def _step_over(self, n: int, put: Tensor | None) -> Callable[..., Any]:
        def forward(*args: Any, **given: Any) -> Any:
            out = put if put is not None else args[0] if args else given["hidden_states"]
            return (out, None, None) if self.tuples[n] else out

        return forward

    def _try(self) -> None:
        """Going on from every layer with its own states must give what the whole model gives."""
        ids = torch.arange(1, 1 + PROBE, device=self.device)[None]
        with torch.no_grad():
            whole = hidden_states(self.model, ids)
            states = self.read(ids)
            same = len(states) == len(self.blocks) + 1
            for layer, own in enumerate(states):
                same = same and _close(self.go_on(ids, layer, own), whole)
                other = self.go_on(ids, layer, own + own.std() * torch.linspace(-1, 1, own.shape[-1], device=self.device))
                same = same and not _close(other, whole)
        if not same:
            raise UserError(f"{self.name} does not go on from the states between its blocks alone; they cannot be patched there.")


@dataclass(frozen=True)
class Part:
    """What one block adds to the stream by."""

    attention: nn.Module
    mlp: nn.Module


def parts(stream: Stream) -> list[Part]:
    """Attention and MLP of every block; refused unless what a block adds is the sum of what they give."""
    found = [Part(*(_child(stream, n, what) for what in COMPONENTS)) for n in range(len(stream.blocks))]
    ids = torch.arange(1, 1 + PROBE, device=stream.device)[None]
    given, states = outputs(stream, found, ids), stream.read(ids)
    for n in range(len(found)):
        if not _close(states[n] + given["attention"][n] + given["mlp"][n], states[n + 1]):
            raise UserError(
                f"Block {n} of {stream.name} adds more to the residual stream than what its attention and its MLP give; "
                "they cannot be exchanged or told apart."
            )
    return found


@torch.no_grad()
def outputs(stream: Stream, found: Sequence[Part], ids: Tensor) -> dict[str, list[Tensor]]:
    """What attention and MLP of each block give [B, T, H], by component."""
    kept: dict[str, list[Tensor]] = {what: [] for what in COMPONENTS}
    with ExitStack() as hooks:
        for what in COMPONENTS:
            for part in found:
                hook = getattr(part, what).register_forward_hook(lambda _, __, out, what=what: kept[what].append(first_of(out)))
                hooks.callback(hook.remove)
        hidden_states(stream.model, ids)
    return kept


@contextmanager
def giving(modules: Sequence[nn.Module], values: Sequence[Tensor]) -> Iterator[None]:
    """While this lasts the modules give these values instead of their own."""
    with ExitStack() as hooks:
        for module, value in zip(modules, values, strict=True):

            def put(_: nn.Module, __: Any, out: Any, value: Tensor = value) -> Any:
                return (value, *out[1:]) if isinstance(out, tuple) else value

            hooks.callback(module.register_forward_hook(put).remove)
        yield


def padded(rows: Sequence[Sequence[int]], where: torch.device) -> Tensor:
    """Ids [B, T], padded on the right with 0, which a causal model does not see from before."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids.to(where)


def first_of(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple) else out


def _enters(states: Tensor) -> Callable[..., Any]:
    def put(_: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        return ((states, *args[1:]), given) if args else (args, given | {"hidden_states": states})

    return put


def _child(stream: Stream, n: int, what: str) -> nn.Module:
    found = [m for name, m in stream.blocks[n].named_children() if NAMED[what].fullmatch(name)]
    if len(found) != 1:
        raise UserError(f"Block {n} of {stream.name} has no single {what} under a known name; its components cannot be told apart.")
    return found[0]


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))
