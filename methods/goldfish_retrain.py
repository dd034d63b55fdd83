"""Retraining with the goldfish loss (Hans et al. 2024, arXiv 2406.10209)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from ..benchmark.method import IGNORED, Group, Method, Strength, Subject, Term, Terms, Trainer, UnlearningData, UserError, nll_sum, one_of

TABLE_SEED, TABLE_SIZE = 2971215073, 1_000_003  # of the published code


@dataclass(frozen=True)
class GoldfishRetrain(Method):
    """Retrain on the same stream, forget set included, leaving about 1/k of the tokens out of the loss.

    mask: "hash" drops a token by an order-sensitive hash of the h tokens before it (the paper's rule), so a passage is
    masked alike wherever it stands; "hash-table" is the published code's variant, which hashes the product of a window
    of h tokens that ends with the token itself and, since that code sees targets only, never holds a row's first token;
    "static" drops every k-th position; "random" draws per row.
    """

    k: int = 4
    h: int = 13
    mask: Annotated[str, one_of("hash", "hash-table", "static", "random")] = "hash"

    needs_history: ClassVar[bool] = True
    paper: ClassVar[str] = "Hans et al. 2024, arXiv 2406.10209"
    strength: ClassVar[Strength] = Strength("k", power=-0.3)

    def __post_init__(self) -> None:
        if self.mask not in ("hash", "hash-table", "static", "random"):
            raise UserError(f"goldfish_retrain.mask={self.mask!r}: expected hash, hash-table, static or random.")
        if self.k < 2 or self.h < 1:
            raise UserError(f"goldfish_retrain needs k of at least 2 and h of at least 1; got k={self.k}, h={self.h}.")

    def unlearn(self, held: Subject, data: UnlearningData, train: Trainer) -> Subject:
        assert data.history is not None

        def loss(model: nn.Module, groups: dict[str, Group]) -> Terms:
            text = groups["text"]
            labels = text.labels.masked_fill(self.dropped(text.ids, text.serial + ((data.seed & 0x3FFFFFFF) << 32)), IGNORED)
            masked = replace(text, labels=labels)
            # The unmasked share differs a little between batches; dividing by its expectation keeps the sum additive over ranks.
            return {"nll": Term(nll_sum(model, masked), "tokens", "text", self.k / (self.k - 1))}

        return data.history.replay(train, loss, forget=True)

    def dropped(self, ids: Tensor, serial: Tensor | None = None) -> Tensor:
        """True [B, T] where the token is left out of the loss. Only "random" reads `serial` [B], a number per draw of a row."""
        position = torch.arange(ids.shape[1], device=ids.device)
        if self.mask == "static":
            return (position % self.k == self.k - 1).expand_as(ids)
        if self.mask == "random":
            rows = serial if serial is not None else torch.arange(len(ids), device=ids.device)
            return _unit(_mix(_mix(rows[:, None] + 1) ^ (position + 1))) < 1 / self.k
        out = torch.zeros_like(ids, dtype=torch.bool)
        if ids.shape[1] <= self.h:
            return out
        if self.mask == "hash":
            value = torch.zeros_like(ids[:, self.h :])
            for back in range(self.h, 0, -1):  # tokens i-h .. i-1, each step mixing what came before
                value = _mix(value ^ (ids[:, self.h - back : ids.shape[1] - back] + 1))
            out[:, self.h :] = _unit(value) < 1 / self.k
        else:
            table = torch.rand(TABLE_SIZE, generator=torch.Generator().manual_seed(TABLE_SEED)).to(ids.device)
            window = ids[:, 1:].unfold(1, self.h, 1).prod(-1) % TABLE_SIZE  # the published code sees targets: ids from the second on
            out[:, self.h :] = table[window] < 1 / self.k
        return out


def _mix(x: Tensor) -> Tensor:
    """A 64-bit finaliser (the multipliers of SplitMix64) on int64, wrapping."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _unit(x: Tensor) -> Tensor:
    return ((x >> 11) & ((1 << 53) - 1)).double() / (1 << 53)
