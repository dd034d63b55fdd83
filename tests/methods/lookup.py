"""Models whose losses can be written down by hand, rows for them, and the closed forms that tests of losses share."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.modeling_outputs import BaseModelOutput

from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.method import Descent, Reference
from palimpsest.benchmark.models.logits import route
from palimpsest.benchmark.training.batches import Terms, collate, counts
from palimpsest.methods.grad_diff import GradDiff
from palimpsest.methods.gradient_ascent import GradientAscent
from palimpsest.methods.npo import NPO

ALL = [GradientAscent(), GradDiff(), GradDiff(retain_loss="kl"), NPO(), NPO(retain_loss="kl")]
VOCABULARY = 11


def label(given: object) -> str | None:
    return f"{type(given).__name__} {getattr(given, 'retain_loss', '')}".strip() if isinstance(given, Descent) else None


class _Table(nn.Module):
    """The body of `Lookup`."""

    def __init__(self, table: Tensor):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(table.clone(), freeze=False)
        self.forwards = 0

    def forward(self, input_ids: Tensor, use_cache: bool) -> BaseModelOutput:
        self.forwards += 1
        return BaseModelOutput(self.table(input_ids))  # type: ignore[arg-type]


class Lookup(nn.Module):
    """A model whose logits after a token are a row of a table: log-probabilities can be written down by hand."""

    def __init__(self, table: Tensor):
        super().__init__()
        self.base_model = _Table(table)
        self.head = nn.Linear(table.shape[1], table.shape[1], bias=False)
        self.head.weight.data = torch.eye(table.shape[1], dtype=table.dtype)
        route(self)  # which asks it some tokens
        self.base_model.forwards = 0

    @property
    def table(self) -> nn.Embedding:
        return self.base_model.table

    @property
    def forwards(self) -> int:
        return self.base_model.forwards

    def forward(self, input_ids: Tensor, use_cache: bool) -> Any:
        return SimpleNamespace(logits=self.head(self.base_model(input_ids=input_ids, use_cache=use_cache).last_hidden_state))

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def log_probability(self, row: Row) -> list[float]:
        """log p of every scored token, in plain arithmetic."""
        out = []
        for t in range(max(1, row.scored_from), len(row.ids)):
            logits = self.table.weight[row.ids[t - 1]].tolist()
            out.append(logits[row.ids[t]] - math.log(sum(math.exp(z) for z in logits)))
        return out


def lookup(seed: int, dtype: torch.dtype = torch.float32) -> Lookup:
    return Lookup(torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed)).to(dtype)).to(device())


def small(seed: int = 0) -> GPTNeoXForCausalLM:
    """A GPT-NeoX with 11 tokens in float64."""
    torch.manual_seed(seed)
    shape = GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16, initializer_range=0.3,
    )  # fmt: skip
    return GPTNeoXForCausalLM(shape).double().eval().to(device())


FORGET = [Row((1, 2, 3, 4, 5, 6), 2, "a"), Row((7, 8, 9), name="b")]
RETAIN = [Row((2, 4, 6, 8), name="c"), Row((9, 7, 5, 3, 1), 3, "d"), Row((10, 1, 10), name="e")]


def reference(model: Any, rows: list[Row] = FORGET) -> Reference:
    return Reference(SimpleNamespace(model=model), rows)  # type: ignore[arg-type]


def value(terms: Terms, forget: list[Row], retain: list[Row]) -> Tensor:
    """The loss as the trainer makes it of the terms."""
    n = counts({"forget": forget, "retain": retain})
    return torch.stack([t.total * t.weight / n[t.group, t.unit] for t in terms.values()]).sum()


def loss_of(method: Descent, model: Any, held: Any, forget: list[Row] = FORGET, retain: list[Row] = RETAIN) -> Tensor:
    groups = [collate(rows, slice(None), device()) for rows in (forget, retain)]
    return value(method.loss(model, *groups, reference(held, forget)), forget, retain).detach()


def mean_nll(model: Lookup, rows: list[Row]) -> float:
    each = [x for r in rows for x in model.log_probability(r)]
    return -sum(each) / len(each)


def mean_kl(held: Lookup, model: Lookup, rows: list[Row]) -> float:
    """KL(p_held || p_model) at the positions that predict a scored token."""
    each = []
    for r in rows:
        for t in range(max(1, r.scored_from), len(r.ids)):
            p = torch.softmax(held.table.weight[r.ids[t - 1]].double(), -1).tolist()
            q = torch.softmax(model.table.weight[r.ids[t - 1]].double(), -1).tolist()
            each.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return sum(each) / len(each)
