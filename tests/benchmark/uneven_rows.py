"""What tests of the training loop share: rows of uneven lengths, a plain recipe, and how far weights lie apart."""

from __future__ import annotations

import torch
from torch import Tensor

from palimpsest.benchmark.common.types import Batch, Row
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.training.recipe import Recipe

PLAIN = Recipe(lr=1e-3, steps=3, precision="fp32")


def text(sizes: list[int], seed: int = 0, scored_from: int = 1) -> list[Row]:
    """Rows of random ids with these lengths."""
    draw = torch.Generator().manual_seed(seed)
    return [Row(tuple(torch.randint(1, 4096, (n,), generator=draw).tolist()), scored_from) for n in sizes]


def uneven(step: int) -> Batch:
    return {"text": text([9, 40, 23, 31, 12, 17], step)}


def weights(subject: Subject) -> dict[str, Tensor]:
    return dict(subject.fresh().named_parameters())


def furthest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference between two sets of weights."""
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).detach().abs().max()) for k in a)
