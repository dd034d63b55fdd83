"""The model's side of reading: padded batches, states of every layer, and the head on a few positions at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.errors import UserError
from ..common.types import TokenReading
from ..models.bounds import positions
from ..models.finite import is_finite
from ..models.lens import layer_states
from ..models.logits import hidden_states, logits_of, route
from ..models.subject import Subject
from .neox import NeoX, fits

Layer = int | None  # states after this many layers; None: what the head reads
PADDING = {"cpu": 256, "cuda": 4096}  # tokens of it that cost less than another forward pass; a GPU waits for its kernels' launches
TIE = 1e-30  # the margin of two equal logits: its sign says which of them has the lower id


def padded(length: int) -> int:
    """So many tokens are a row's in bf16, where attention is faster over a multiple of 16."""
    more = -length % 16
    return length + more if more < length // 8 else length


def batches(lengths: Sequence[int], tokens: int, device: str = "cpu") -> list[list[int]]:
    """Indices in the order of length, cut so that padded batches hold at most `tokens` tokens, and little padding."""
    out: list[list[int]] = []
    real = tokens
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        padded = lengths[i] * (len(out[-1]) + 1) if out else 0
        if not out or padded > tokens or padded - real - lengths[i] > PADDING[device] + real // 16:
            out.append([])
            real = 0
        out[-1].append(i)
        real += lengths[i]
    return out


@dataclass(eq=False)
class Forward:
    """One subject as the reader asks it, and the tokens of its rows as far as they are known."""

    subject: Subject
    tokens: Sequence[int] = ()
    _quick: dict[torch.dtype, NeoX | None] = field(default_factory=dict, init=False, repr=False)

    @property
    def device(self) -> torch.device:
        return next(self.subject.model.parameters()).device

    @property
    def lead(self) -> int:
        """How many ids stand before every row."""
        return 0 if self.subject.bos is None else 1

    @property
    def chunk(self) -> int:
        """For how many positions logits are held at a time, a power of two."""
        fitting = max(1, (2**26 if self.device.type == "cuda" else 2**23) // route(self.subject.model).vocabulary)
        return 1 << fitting.bit_length() - 1

    def quick(self, dtype: torch.dtype) -> NeoX | None:
        """A faster body, if there is one for this architecture and this processor."""
        if dtype not in self._quick:
            body = self.subject.model.base_model
            self._quick[dtype] = quick = NeoX(body, dtype) if fits(body, dtype) else None
            if quick and len(self.tokens):
                with torch.autocast(self.device.type, enabled=False):
                    quick.add_tokens(torch.tensor(self.tokens, device=self.device))
        return self._quick[dtype]

    def states(
        self, rows: Sequence[tuple[int, ...]], layers: Iterable[Layer], low: bool = False, quick: bool = False
    ) -> dict[Layer, Tensor]:
        """For each layer what the head would read [B, T, H]; index t + `lead` stands behind row[t].

        `low`: under autocast to bf16. `quick`: the faster body will do.
        """
        longest = max(map(len, rows)) + self.lead
        most = positions(self.subject.model.config)
        if most is not None and longest > most:
            raise UserError(f"A row of {longest} tokens is to be read, and {type(self.subject.model).__name__} reads at most {most}.")
        if low and (most is None or padded(longest) <= most):
            longest = padded(longest)
        ids = np.zeros((len(rows), longest), np.int64)
        for b, row in enumerate(rows):
            ids[b, : len(row) + self.lead] = self.subject.with_bos(row)
        model, inputs = self.subject.model, torch.from_numpy(ids).to(self.device)
        inner = sorted(layer for layer in layers if layer is not None)
        if not inner and quick and (body := self.quick(torch.bfloat16 if low else torch.float32)):
            with torch.autocast(self.device.type, enabled=False):
                return {None: body(inputs)}
        if not inner:
            return {None: hidden_states(model, inputs)}
        found = layer_states(model, inputs)
        if not 0 <= inner[0] <= inner[-1] < len(found):
            raise UserError(f"A probe asks for layers {inner}; this model has layers 0 (the embeddings) to {len(found) - 1}.")
        return {None: found[-1], **{n: found[n] for n in inner}}

    def margins(self, states: Tensor, truth: Tensor, low: bool, doubt: float = 0.0) -> Tensor:
        """The true token's logit minus the best other logit, from states [N, H]: [N], positive where greedy decoding says it.

        If `low`, the head runs in bf16; margins below `doubt` and what bf16 rounds off a logit are then computed again in fp32.
        """
        margin = self._gated(states, truth, doubt) if low else self._exact(states, truth)
        if not is_finite(margin):
            raise UserError(f"{self.subject.folder}: its logits are not finite (NaN or infinity), so no length can be read off them.")
        return margin

    def _gated(self, states: Tensor, truth: Tensor, doubt: float) -> Tensor:
        """Margins [N] in bf16, close ones in fp32."""
        target, best = self._rough(states, truth)
        margin = target - best
        again = ((margin.abs() < doubt + torch.maximum(target.abs(), best) * 2**-7) | (best <= 0)).nonzero()[:, 0]
        margin[again] = self._exact(states[again], truth[again])
        return margin

    def _rough(self, states: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """The true token's logit and the best other one [N], in bf16 (autocast is on). Nothing is said of a best one below 0.

        The largest of positive bf16 numbers is that of their bits, which is found several times faster.
        """
        count, step = len(truth), self.chunk
        states = F.pad(states.bfloat16(), (0, 0, 0, -len(states) % min(128, step)))  # oneDNN compiles a kernel for each size
        target, best = states.new_empty(len(states)), states.new_empty(len(states)).view(torch.int16)
        truth, every = F.pad(truth, (0, len(states) - count)), torch.arange(step, device=states.device)
        for i in range(0, len(states), step):
            logits = logits_of(self.subject.model, states[i : i + step]).bfloat16()
            true = every[: len(logits)], truth[i : i + step]
            target[i : i + step] = logits[true]
            logits[true] = -torch.inf
            best[i : i + step] = logits.view(torch.int16).amax(1)
        return target[:count].float(), best[:count].view(torch.bfloat16).float()

    def _exact(self, states: Tensor, truth: Tensor) -> Tensor:
        """Margins [N] with the head in fp32."""
        parts = zip(states.split(self.chunk), truth.split(self.chunk), strict=True)
        return torch.cat([_margins(self._head(s), t) for s, t in parts])

    def reading(self, memory: str, row: tuple[int, ...], states: Tensor, top: int) -> TokenReading:
        """What the model says about every token of a row, from the states [T, H] that `states` gave for it or a longer one."""
        first = 1 - self.lead  # the first token that something stands before
        states = states[: len(row) - first]
        truth = torch.tensor(row[first:], device=states.device)
        parts = [
            _describe(self._head(states[i : i + self.chunk]), truth[i : i + self.chunk], top) for i in range(0, len(truth), self.chunk)
        ]
        found = torch.cat(parts, 1) if parts else torch.zeros(5, 0)
        if not is_finite(found):
            raise UserError(
                f"{self.subject.folder}: its logits are not finite (NaN or infinity), so no probabilities can be read off them "
                f"(memory {memory!r}). Bring weights that did not diverge, or lower the lr of what made them."
            )
        columns = found.cpu().numpy()
        full = np.concatenate([np.full((5, first), np.nan, np.float32), columns], 1)
        rank = np.nan_to_num(full[3], nan=-1).astype(np.int64)
        return TokenReading(memory, full[0], full[1], full[2], rank, full[4])

    def _head(self, states: Tensor) -> Tensor:
        """Logits [N, V] in fp32."""
        with torch.autocast(states.device.type, enabled=False):
            return logits_of(self.subject.model, states.float())


def _margins(logits: Tensor, truth: Tensor) -> Tensor:
    """Margins [N]. Overwrites the logits [N, V]."""
    true = torch.arange(len(truth), device=truth.device), truth
    target = logits[true]
    logits[true] = -torch.inf
    margin = target - logits.amax(1)
    for i in (margin == 0).nonzero()[:, 0].tolist():  # greedy decoding says the lower id
        margin[i] = TIE if truth[i] < logits[i].argmax() else -TIE
    return margin


def _describe(logits: Tensor, truth: Tensor, top: int) -> Tensor:
    """The five quantities of a `TokenReading` [5, N] from logits [N, V]."""
    log_p = logits.log_softmax(-1).clamp_min(-1e4)  # p log p is 0 where p is
    p = log_p.exp()
    mean = (p * log_p).sum(-1)
    deviation = (p * (log_p - mean[:, None]).square()).sum(-1).sqrt()
    rank = (logits > logits.gather(1, truth[:, None])).sum(-1)
    mass = log_p.topk(min(top, log_p.shape[1]), -1).values.logsumexp(-1)
    return torch.stack([log_p.gather(1, truth[:, None])[:, 0], mean, deviation, rank.float(), mass])
