"""What a loss-based method would train with, taken from its own `unlearn`: the start, the batches, the loss, the state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from palimpsest.benchmark.common.plugins import find, names
from palimpsest.benchmark.common.types import Batch, Row
from palimpsest.benchmark.method import Adapted, Descent, UnlearningData
from palimpsest.benchmark.training.batches import Group, Loss, Terms, collate, counts
from palimpsest.benchmark.training.loop import Extras
from palimpsest.benchmark.training.recipe import Recipe

VOCABULARY = 11
DESCENTS = [n for n in names("method") if issubclass(find("method", n).cls, Descent)]
FORGET = [Row((1, 2, 3, 4, 5, 6), 2, "a"), Row((7, 8, 9), name="b")]
RETAIN = [Row((2, 4, 6, 8), name="c"), Row((9, 7, 5, 3, 1), 3, "d"), Row((10, 1, 0), name="e")]
OTHER = {"a": Row((1, 2, 9, 0, 3), 2, "a"), "b": Row((7, 0, 1, 10), 1, "b")}
DATA = UnlearningData(FORGET, [], lambda k: RETAIN[k % 3], seed=7, openings={"a": 2, "b": 1}, alternatives=OTHER)


@dataclass
class Bound:
    """A stand-in for the trainer that keeps what it is asked to fit; `model` has been through the start's `attach`."""

    model: Any
    recipe: Recipe = field(init=False)
    batch_at: Callable[[int], Batch] = field(init=False)
    loss: Loss = field(init=False)
    state: Any = field(init=False)
    start: Any = field(init=False)

    def fit(self, start: Any, batch_at: Callable[[int], Batch], loss: Loss, recipe: Recipe, extras: Extras, **_: Any) -> Any:
        self.start, self.batch_at, self.loss, self.recipe, self.state = start, batch_at, loss, recipe, extras.state
        if isinstance(start, Adapted):
            start.attach(self.model)
        return start

    @property
    def batch(self) -> Batch:
        return self.batch_at(0)

    def groups(self, deal: slice = slice(None), step: int = 0) -> dict[str, Group]:
        return {name: collate(rows, deal, next(self.model.parameters()).device, step) for name, rows in self.batch.items()}

    def terms(self, groups: dict[str, Group] | None = None) -> Terms:
        return self.loss(self.model, groups or self.groups())

    def value(self, groups: dict[str, Group] | None = None) -> Tensor:
        """The loss as the trainer makes it of the terms that have a gradient."""
        n = counts(self.batch)
        each = [t.total * t.weight / n[t.group, t.unit] for t in self.terms(groups).values() if t.total.requires_grad]
        return torch.stack(each).sum()

    @property
    def number(self) -> float:
        """The loss of the first batch."""
        return float(self.value().detach())


def bind(method: Descent, model: nn.Module, held: nn.Module, data: UnlearningData = DATA) -> Bound:
    """The method's training of `model`, with `held` as the held model."""
    bound = Bound(model)
    subject: Any = SimpleNamespace(model=held, folder=Path(), with_state=lambda state: state)
    subject.fresh = lambda: held
    method.unlearn(subject, data, bound)  # type: ignore[arg-type]
    return bound


def made(name: str, **given: Any) -> Any:
    return find("method", name).make(given)


def small(seed: int = 0, layers: int = 2, neurons: int = 12) -> Any:
    """A GPT-NeoX with 11 tokens in float64."""
    torch.manual_seed(seed)
    shape = GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=neurons,
        max_position_embeddings=16, initializer_range=0.3,
    )  # fmt: skip
    return GPTNeoXForCausalLM(shape).double().eval()
