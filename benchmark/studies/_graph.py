"""A model as a graph: embeddings, heads and MLPs write to the residual stream; queries, keys, values, MLPs and logits read it.

A reader's input is the sum of what earlier writers gave, so each pair of an earlier writer and a reader is an edge that can be patched
alone. The model's own code runs: only the maps to queries, keys and values are asked once for each head. Circuits and scores are
matrices [readers, writers].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..common.errors import UserError
from ..models.logits import hidden_states, instead
from ..models.subject import Subject
from ._stream import Part, Stream, first_of, parts

SEPARATE, FUSED = ("q_proj", "k_proj", "v_proj"), "query_key_value"
OUT = ("o_proj", "out_proj", "dense")
PROBE = 7


@dataclass(frozen=True)
class Block:
    """What of one block is asked: its norms, its maps, and where its writers and readers stand in the matrices."""

    part: Part
    before: dict[str, nn.Module]  # the norm that attention reads by, and that the MLP reads by
    maps: tuple[nn.Linear, ...]  # of queries, keys and values, or one of all
    weights: tuple[Tensor, ...]  # of queries, keys, values: [heads, size, H]
    biases: tuple[Tensor | None, ...]  # [heads, size]
    out: nn.Linear
    serial: bool  # whether the MLP reads what attention of the same block wrote
    writer: int  # the first; heads, then the MLP
    reader: int  # the first; queries, keys, values of all heads, then the MLP

    @property
    def heads(self) -> int:
        return len(self.weights[0])

    @property
    def readers(self) -> int:
        """How many heads' queries, keys and values there are."""
        return sum(map(len, self.weights))


@dataclass
class Pass:
    """One forward pass over the graph: what is patched in it, and what came of it.

    An edge of `patch` [readers, writers] carries what `fixed` [writers, B, T, H] says, all others what their writer gives in this pass.
    """

    patch: Tensor | None = None
    fixed: Tensor | None = None
    start: Tensor | None = None  # [B, T, H] in place of the embeddings
    leaves: dict[int, Tensor] | None = None  # takes a zero [B, T, readers, H] by the first reader; its gradient is that of their inputs
    writers: list[Tensor] = field(default_factory=list)  # [B, T, H] each, in order
    stream: Tensor | None = None  # what the block at hand reads
    middle: Tensor | None = None  # what its MLP reads


class Graph:
    """The graph of one model. Refused by name unless the graph, unpatched, says what the model says."""

    def __init__(self, subject: Subject):
        self.stream = Stream(subject)
        self.model, self.name = self.stream.model, self.stream.name
        self.blocks: list[Block] = []
        writer, reader = 1, 0
        for n, part in enumerate(parts(self.stream)):
            block = self._block(n, part, writer, reader)
            self.blocks.append(block)
            writer, reader = writer + block.heads + 1, reader + block.readers + 1
        self.writers, self.readers = writer, reader + 1
        self.valid = self._edges()
        self._try()

    @property
    def writer_names(self) -> list[str]:
        return ["input"] + [n for i, b in enumerate(self.blocks) for n in (*(f"a{i}.{h}" for h in range(b.heads)), f"m{i}")]

    @property
    def reader_names(self) -> list[str]:
        names = []
        for i, b in enumerate(self.blocks):
            names += [f"a{i}.{h}.{kind}" for kind, w in zip("qkv", b.weights, strict=True) for h in range(len(w))] + [f"m{i}"]
        return [*names, "logits"]

    def run(self, ids: Tensor, last: Tensor, given: Pass) -> Tensor:
        """Logits [B, V] at the places `last` [B] of rows of ids [B, T]."""
        with ExitStack() as stack:
            for n, block in enumerate(self.blocks):
                stack.callback(self.stream.blocks[n].register_forward_pre_hook(self._enter(n, given), with_kwargs=True).remove)
                self._watch(stack, block, given)
            stack.callback(self.stream.blocks[-1].register_forward_hook(self._leave(given)).remove)
            states = hidden_states(self.model, ids)
        return self.stream.logits(states[torch.arange(len(ids), device=ids.device), last][None])[0]

    @property
    def feeds(self) -> Tensor:
        """Whether a reader [readers, writers] decides what a writer gives; a key or value may serve several heads."""
        found = torch.zeros(self.readers, self.writers, dtype=torch.bool)
        for b in self.blocks:
            reader = b.reader
            for w in b.weights:
                share = b.heads // len(w)
                for h in range(b.heads):
                    found[reader + h // share, b.writer + h] = True
                reader += len(w)
            found[reader, b.writer + b.heads] = True
        return found

    # ---- inside a pass

    def _enter(self, n: int, given: Pass) -> Callable[..., Any]:
        def enter(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
            states = args[0] if args else named["hidden_states"]
            if n == 0:
                states = states if given.start is None else given.start
                given.writers.append(states)
            given.stream = states
            return ((states, *args[1:]), named) if args else (args, named | {"hidden_states": states})

        return enter

    def _watch(self, stack: ExitStack, block: Block, given: Pass) -> None:
        """Let attention read by heads and the MLP by itself, and keep what they write."""
        cache: dict[str, Tensor] = {}

        def read(which: int) -> Tensor:
            """What one of the maps gives [B, T, all heads], each head reading for itself."""
            if which == 0:
                x = self._inputs(given, given.stream, block.reader, block.readers)
                for name, values in zip("qkv", self._heads(block, block.before["attention"](x)), strict=True):
                    cache[name] = values
            if len(block.maps) == 3:
                return cache["qkv"[which]].flatten(2)
            return torch.stack([cache[name] for name in "qkv"], 3).flatten(2)

        def wrote(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            per_head = args[0].unflatten(-1, (block.heads, -1))
            weight = block.out.weight.unflatten(-1, (block.heads, -1))
            given.writers.extend(torch.einsum("bthd,ohd->htbo", per_head, weight).transpose(1, 2).unbind(0))
            assert given.stream is not None
            given.middle = given.stream + out if block.serial else given.stream

        own, norm = block.part.mlp.forward, block.before["mlp"]
        for which, linear in enumerate(block.maps):
            stack.enter_context(instead(linear, lambda _, which=which: read(which)))
        stack.callback(block.out.register_forward_hook(wrote).remove)
        stack.enter_context(
            instead(block.part.mlp, lambda *_, **__: own(norm(self._inputs(given, given.middle, block.reader + block.readers)[..., 0, :])))
        )
        stack.callback(block.part.mlp.register_forward_hook(lambda _, __, out: given.writers.append(first_of(out))).remove)

    def _leave(self, given: Pass) -> Callable[..., Any]:
        def leave(_: nn.Module, __: Any, out: Any) -> Any:
            read = self._inputs(given, first_of(out), self.readers - 1)[..., 0, :]
            return (read, *out[1:]) if isinstance(out, tuple) else read

        return leave

    def _inputs(self, given: Pass, stream: Tensor | None, reader: int, count: int = 1) -> Tensor:
        """What `count` readers read [B, T, count, H]."""
        assert stream is not None
        x = stream[..., None, :]
        if given.leaves is not None:
            shape = (*stream.shape[:-1], count, stream.shape[-1])
            given.leaves[reader] = torch.zeros(shape, device=stream.device, requires_grad=True)
            x = x + given.leaves[reader]
        if given.patch is not None and given.fixed is not None:
            earlier = self._before(reader)
            difference = given.fixed[:earlier] - torch.stack(given.writers[:earlier])
            x = x + torch.einsum("rw,wbth->btrh", given.patch[reader : reader + count, :earlier].to(stream), difference)
        return x.expand(*stream.shape[:-1], count, stream.shape[-1])

    @staticmethod
    def _heads(block: Block, x: Tensor) -> list[Tensor]:
        """Queries, keys and values [B, T, heads, size] of normalised inputs [B, T, readers, H]."""
        found = []
        for own, w, b in zip(x.split([len(w) for w in block.weights], 2), block.weights, block.biases, strict=True):
            values = torch.einsum("bthi,hdi->bthd", own, w)
            found.append(values if b is None else values + b)
        return found

    # ---- how it is taken apart

    def _block(self, n: int, part: Part, writer: int, reader: int) -> Block:
        linears = {name.rpartition(".")[2]: m for name, m in part.attention.named_modules() if isinstance(m, nn.Linear)}
        maps = tuple(linears[name] for name in SEPARATE if name in linears) or tuple(linears[name] for name in [FUSED] if name in linears)
        out = next((linears[name] for name in OUT if name in linears), None)
        config = self.model.config.get_text_config(decoder=True)
        heads = getattr(config, "num_attention_heads", 0)
        if len(maps) not in (1, 3) or out is None or not heads or out.in_features % heads:
            raise UserError(
                f"Attention of block {n} of {self.name} has no maps that go by a known name ({', '.join(SEPARATE)} or {FUSED}; "
                f"{', '.join(OUT)}); its heads cannot be told apart."
            )
        before, serial = self._norms(n, part, maps[0])
        weights, biases = _by_head(maps, out.in_features // heads, f"block {n} of {self.name}")
        return Block(part, before, maps, weights, biases, out, serial, writer, reader)

    def _norms(self, n: int, part: Part, first: nn.Module) -> tuple[dict[str, nn.Module], bool]:
        """The modules through which attention and MLP read the stream, and whether the MLP reads after attention: as seen in a pass."""
        seen: list[tuple[nn.Module, Tensor, Tensor]] = []
        read: dict[str, Tensor] = {}

        def norm(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(out, Tensor):
                seen.append((module, args[0], out))

        def reads(what: str) -> Callable[..., None]:
            return lambda _, args: read.update({what: args[0]}) if args else None

        with torch.no_grad(), ExitStack() as hooks:
            for m in self.stream.blocks[n].children():
                hooks.callback(m.register_forward_hook(norm).remove)
            hooks.callback(first.register_forward_pre_hook(reads("attention")).remove)
            hooks.callback(part.mlp.register_forward_pre_hook(reads("mlp")).remove)
            ids = torch.arange(1, 1 + PROBE, device=self.stream.device)[None]
            states = self.stream.read(ids)
        found = {what: (m, x) for what in read for m, x, out in seen if out is read[what]}
        if len(found) != 2:
            raise UserError(f"Block {n} of {self.name} does not read the residual stream through one norm before each component.")
        return {what: m for what, (m, _) in found.items()}, not torch.equal(found["mlp"][1], states[n])

    def _before(self, reader: int) -> int:
        """How many writers stand before a reader."""
        for b in self.blocks:
            if reader < b.reader + b.readers:
                return b.writer
            if reader == b.reader + b.readers:
                return b.writer + (b.heads if b.serial else 0)
        return self.writers

    def _edges(self) -> Tensor:
        before = torch.tensor([self._before(r) for r in range(self.readers)])
        return torch.arange(self.writers)[None] < before[:, None]

    @torch.no_grad()
    def _try(self) -> None:
        """The graph must say what the model says, its writers must sum to the stream but for constants, and each edge must be one."""
        device = self.stream.device
        ids = torch.stack([torch.arange(1, 1 + PROBE), torch.arange(PROBE, 0, -1)]).to(device)
        last = torch.tensor([PROBE - 1, PROBE - 2], device=device)
        own = self.stream.logits(hidden_states(self.model, ids)[torch.arange(2), last][None])[0]
        plain, other = Pass(), Pass()
        said, _ = self.run(ids, last, plain), self.run(ids.flip(0), last, other)
        fixed = torch.stack(other.writers)
        all_patched = self.run(ids, last, Pass(self.valid.to(device), fixed))
        swapped = self.stream.logits(hidden_states(self.model, ids.flip(0))[torch.arange(2), last][None])[0]
        scale = 1e-3 * float(own.abs().max())
        if not (torch.allclose(said, own, atol=scale, rtol=1e-3) and torch.allclose(all_patched, swapped, atol=scale, rtol=1e-3)):
            raise UserError(f"{self.name} is not the sum of its embeddings, heads and MLPs as read here; it has no graph of edges.")
        self._try_heads(ids, last, torch.stack(plain.writers), fixed)

    def _try_heads(self, ids: Tensor, last: Tensor, own: Tensor, fixed: Tensor) -> None:
        """What one head of the first block reads must change what it writes, or the heads that share its keys and values, and no other."""
        block = self.blocks[0]
        for reader, (kind, head) in enumerate((k, h) for k, w in enumerate(block.weights) for h in range(len(w))):
            patch = torch.zeros_like(self.valid)
            patch[reader, 0] = True
            self.run(ids, last, given := Pass(patch, fixed))
            moved = (torch.stack(given.writers[1 : 1 + block.heads]) - own[1 : 1 + block.heads]).abs().amax((1, 2, 3))
            others = torch.arange(block.heads, device=moved.device) // (block.heads // len(block.weights[kind])) != head
            if (moved[others] > 1e-5 * own.abs().max()).any():
                raise UserError(
                    f"The maps to queries, keys and values of {self.name} are not laid out head by head; its heads cannot be told apart."
                )


def _by_head(maps: Sequence[nn.Linear], size: int, whose: str) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    """Weights [heads, size, H] and biases [heads, size] of queries, keys and values; one map holds them head by head."""
    if any(m.out_features % (size * (1 if len(maps) == 3 else 3)) for m in maps):
        raise UserError(f"The maps to queries, keys and values in {whose} do not split into heads of {size}.")
    if len(maps) == 3:
        return tuple(m.weight.unflatten(0, (-1, size)) for m in maps), tuple(
            None if m.bias is None else m.bias.unflatten(0, (-1, size)) for m in maps
        )
    weight, bias = maps[0].weight.unflatten(0, (-1, 3, size)), maps[0].bias
    biases = (None, None, None) if bias is None else tuple(bias.unflatten(0, (-1, 3, size)).unbind(1))
    return tuple(weight.unbind(1)), biases
