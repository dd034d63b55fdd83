"""Reads many continuations of one prompt with what was read before kept: for searches over what a model could say."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.subject import Subject


class Decoding:
    """Rows of ids that a model reads piece by piece, in fp32. They begin as one row and may be chosen, repeated and dropped.

    Keys and values of what was read are kept if the model has a cache; else the rows are read again from the beginning.
    """

    def __init__(self, subject: Subject, prompt: Sequence[int]):
        self.model = subject.model
        self.where = next(self.model.parameters()).device
        self.ids = torch.empty(1, 0, dtype=torch.long, device=self.where)
        self.cache = None
        self.last = self.read(torch.tensor([subject.with_bos(tuple(prompt))]))[:, -1]  # logits [n, V] of what comes next

    @torch.no_grad()
    def read(self, ids: Tensor) -> Tensor:
        """Append ids [n, k], one line per row, and return the logits [n, k, V] after each of them."""
        before = self.ids.shape[1]
        self.ids = torch.cat([self.ids, ids.to(self.where)], 1)
        known = self.cache is not None
        out = self.model(input_ids=self.ids[:, before:] if known else self.ids, past_key_values=self.cache, use_cache=True)
        self.cache = getattr(out, "past_key_values", None)
        logits = out.logits if known else out.logits[:, before:]
        self.last = logits[:, -1]
        return logits

    def choose(self, rows: Tensor) -> None:
        """Go on with these rows [n]; one may come several times."""
        rows = rows.to(self.where)
        self.ids, self.last = self.ids[rows], self.last[rows]
        if self.cache is not None:
            self.cache.batch_select_indices(rows)
