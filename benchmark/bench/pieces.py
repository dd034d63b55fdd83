"""Two pieces of a training step in the shapes of SmolLM2-135M, against PyTorch's own: the head with its loss, and attention."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from ..commands.progress import Display
from ..common.processes import device
from ..training.attention import QuickAttention
from ..training.losses import head_nll
from .budget import ROUNDS, spread
from .reading import timed

WORDS, WIDTH, ROWS, LENGTH, HEADS, SHARED = 49152, 576, 16, 160, 9, 3  # of SmolLM2-135M; a batch as in the suite real
SCALE = 0.02  # of the head's weights, as models begin: of larger ones most probabilities are too small for ordinary numbers, and slow


def pieces(table: Table, display: Display, precision: str) -> None:
    """Forward and backward pass of each piece, ours and PyTorch's in turn."""
    draw = torch.Generator().manual_seed(0)

    def drawn(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=draw).mul_(scale).to(device()).requires_grad_()

    states, weight = drawn(ROWS * LENGTH, WIDTH), drawn(WORDS, WIDTH, scale=SCALE)
    labels = torch.randint(WORDS, (ROWS * LENGTH,), generator=draw).to(device())
    _compare(
        f"head of {WORDS:,} words",
        lambda: head_nll(states, weight, None, labels),
        "cross_entropy of logits that are kept",
        lambda: F.cross_entropy(F.linear(states, weight).float(), labels, reduction="sum"),
        (table, display, precision),
    )
    if device().type != "cpu" or precision != "bf16":
        return  # attention is the library's there
    query, key, value = (drawn(ROWS, n, LENGTH, WIDTH // HEADS) for n in (HEADS, HEADS // SHARED, HEADS // SHARED))

    def attend() -> Tensor:
        return F.scaled_dot_product_attention(query.bfloat16(), key.bfloat16(), value.bfloat16(), is_causal=True, enable_gqa=True).sum()

    def quickly() -> Tensor:
        with QuickAttention():
            return attend()

    _compare(f"attention, {HEADS} heads on {HEADS // SHARED}", quickly, "the library's backward pass", attend, (table, display, precision))


def _compare(what: str, ours: Callable[[], Tensor], against: str, theirs: Callable[[], Tensor], where: tuple[Table, Display, str]) -> None:
    """A row of the table: what a forward and a backward pass take."""
    table, display, precision = where
    display.begin(f"{what}: ours and PyTorch's")

    def once(side: Callable[[], Tensor]) -> float:
        def both() -> None:
            with torch.autocast(device().type, torch.bfloat16, enabled=precision == "bf16"):
                total = side()
            total.backward()

        return timed(both)[0]

    for side in (ours, theirs):
        once(side)  # kernels are compiled when first used
    times = [(once(ours), once(theirs)) for _ in range(ROUNDS)]
    mine, other = (statistics.median(side) for side in zip(*times, strict=True))
    table.add_row(
        f"{what}, {precision}",
        f"{mine * 1e3:,.0f} ms",
        spread([a / b for a, b in times], " of its time"),
        f"{against}: {other * 1e3:,.0f} ms; {ROUNDS} in turn",
    )
