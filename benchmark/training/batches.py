"""What a loss is given and what it gives: rows as padded groups, and summed terms with the unit that they are divided by."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..common.errors import UserError
from ..common.types import Batch, Row

IGNORED = -100


@dataclass(frozen=True)
class Group:
    """One micro-batch of one group: ids [B, T] padded on the right, labels [B, T] with -100 where nothing is scored.

    `labels[:, t]` is the id *at* t, to be predicted from the position before. `names` are the rows'
    names; `real` [B] is False for a row that only fills an empty micro-batch.
    """

    ids: Tensor
    labels: Tensor
    names: tuple[str, ...]
    real: Tensor
    serial: Tensor  # [B], the row's place in the whole run: for draws that must not depend on ranks
    known: _Places | None = field(default=None, repr=False, compare=False)

    @property
    def places(self) -> Tensor:
        """Where in [B * T] a scored token is predicted [N], in order. Told by `collate`, so that a GPU need not be waited for."""
        if self.known and self.known.of is self.labels and self.known.version == _version(self.labels):
            return self.known.places
        row, place = (self.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)  # other labels than were collated
        return row * self.labels.shape[1] + place

    @property
    def scored(self) -> Tensor:
        """The scored tokens [N]: the labels of `places`."""
        return self.labels.flatten().index_select(0, self.places + 1)


@dataclass(frozen=True)
class _Places:
    """The places of scored tokens in labels that have not been written to since."""

    places: Tensor
    of: Tensor
    version: int


@dataclass(frozen=True)
class Term:
    """A summed loss term: the trainer divides it by the global number of `unit`s of `group` and multiplies by `weight`."""

    total: Tensor
    unit: str  # "tokens" or "sequences"
    group: str
    weight: float | Tensor = 1.0


Terms = dict[str, Term]


Loss = Callable[[nn.Module, dict[str, Group]], Terms]


def validate_terms(terms: Any, scale: Mapping[tuple[str, str], float]) -> None:
    """What a loss gave is named terms with a unit that can be counted, one of them with a gradient."""
    if not isinstance(terms, Mapping) or not terms or not all(isinstance(t, Term) for t in terms.values()):
        got = {k: type(t).__name__ for k, t in terms.items()} if isinstance(terms, Mapping) else type(terms).__name__
        raise UserError(f"The loss should return a dict of name -> Term, at least one; it returned {got}.")
    for name, t in terms.items():
        if (t.group, t.unit) not in scale:
            known = "; ".join(f"{unit} of {group}" for group, unit in sorted(scale))
            raise UserError(f"The loss term {name!r} counts {t.unit!r} of {t.group!r}; this batch has {known}.")
        if not isinstance(t.total, Tensor) or t.total.numel() != 1:
            raise UserError(f"The loss term {name!r} should hold one number, a sum, as a tensor.")
    if torch.is_grad_enabled() and not any(t.total.requires_grad for t in terms.values()):
        raise UserError("No term of the loss depends on the weights that are trained: there is no gradient.")


def validate_batch(batch: Any, step: int, vocabulary: int) -> None:
    """A batch is named groups of rows whose ids the model knows."""
    if not isinstance(batch, Mapping) or not batch or not all(rows for rows in batch.values()):
        raise UserError(f"The batch of step {step} should be a dict of group -> rows, at least one row each; got {batch!r:.80}.")
    for group, rows in batch.items():
        for r in rows:
            if not isinstance(r, Row) or not r.ids:
                raise UserError(f"The batch of step {step} holds {r!r:.80} in {group!r}; expected a Row with token ids.")
            if not 0 <= min(r.ids) <= max(r.ids) < vocabulary:
                raise UserError(f"Row {r.name!r} of {group!r} at step {step} holds an id beyond the model's {vocabulary} tokens.")


def counts(batch: Batch) -> dict[tuple[str, str], int]:
    """(group, unit) -> how many over the whole global batch: what sums are divided by."""
    out = {}
    for name, rows in batch.items():
        out[name, "tokens"] = sum(r.scored for r in rows)
        out[name, "sequences"] = len(rows)
    return out


def collate(rows: Sequence[Row], deal: slice, device: torch.device | str, step: int = 0) -> Group:
    """The rows of one micro-batch, padded on the right. If none fall to it, one unscored row keeps the ranks in step."""
    mine = list(range(len(rows)))[deal] or [0]
    real = len(range(len(rows))[deal]) > 0
    longest = max(len(rows[i].ids) for i in mine)
    ids = np.zeros((len(mine), longest), np.int64)
    labels = np.full_like(ids, IGNORED)
    for b, i in enumerate(mine):
        row = rows[i].ids
        ids[b, : len(row)] = row
        if real:
            begin = max(1, rows[i].scored_from)
            labels[b, begin : len(row)] = row[begin:]
    scored = np.zeros_like(labels, bool)
    scored[:, :-1] = labels[:, 1:] != IGNORED
    host = ids, labels, np.full(len(mine), real), np.array([step * len(rows) + i for i in mine]), np.flatnonzero(scored)
    there = [_moved(torch.from_numpy(a), torch.device(device)) for a in host]
    places = _Places(there[4], there[1], _version(there[1]))
    return Group(there[0], there[1], tuple(rows[i].name for i in mine), there[2], there[3], places)


def _version(tensor: Tensor) -> int:
    """Which tells whether a tensor was written to."""
    return -1 if tensor.is_inference() else tensor._version  # those of inference mode tell nothing


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; a GPU fetches it from pinned memory while this process goes on."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def shape_of(batch: Batch, deal: slice) -> Hashable:
    """What decides how much work a micro-batch is: of each group the number of rows, the longest of them, the scored tokens."""
    dealt = [(name, rows[deal], rows[:1]) for name, rows in batch.items()]  # one row stands in where none is dealt
    return tuple((g, len(mine), max(len(r.ids) for r in mine or first), sum(r.scored for r in mine)) for g, mine, first in dealt)
