"""A step of our training loop against one of a plain PyTorch loop."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.table import Table

from ..commands.progress import Display
from ..common.processes import device
from ..common.types import Batch
from ..running.plan import Run
from ..training.loop import train
from ..training.losses import language_model_loss
from ..training.recipe import Recipe
from .budget import Budget, spread
from .reading import Peaks, timed

STEPS = (12, 24)  # at least, and where there is time; the first quarter does not count


def training(run: Run, table: Table, display: Display, precision: str, peaks: Peaks, budget: Budget) -> None:
    """A step of our loop against a plain one over a run's base model and stream."""
    stream = run.stream(run.suite.seeds[0])
    steps(f"training step, {precision}", run.base.fresh, stream.batch_at, table, display, precision, peaks[precision], budget)


def steps(
    what: str,
    fresh: Callable[[], Any],
    batch_at: Callable[[int], Batch],
    table: Table,
    display: Display,
    precision: str,
    peak: float,
    budget: Budget,
) -> None:
    """A row of the table: a step of our loop against a plain PyTorch loop over the same model with its own loss, same precision and
    batch (rows of one length, in the group "text"), in turn. `fresh()` makes the model anew.
    """
    model = fresh().to(device()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)
    ours, theirs = [], []

    def plain(step: int) -> float:
        ids = torch.tensor([r.ids for r in batch_at(step)["text"]], device=device())
        return timed(lambda: one(ids))[0]

    def one(ids: torch.Tensor) -> None:
        with torch.autocast(device().type, torch.bfloat16, enabled=precision == "bf16"):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def after(_: str, step: int, of: int) -> None:
        ours.append(time.perf_counter() - began[0])
        theirs.append(plain(step))
        display.update(f"{what}: a step of ours, a plain one", step, of)
        began[0] = time.perf_counter()

    display.begin(f"{what}: how long does it take?")
    plain(0)  # kernels are compiled when first used
    number = budget.fitting(2 * plain(0), *STEPS)
    began = [time.perf_counter()]
    train(fresh(), batch_at, language_model_loss, Recipe(steps=number, lr=1e-4, precision=precision), progress=after)
    warm = number // 4
    step, other = statistics.median(ours[warm:]), statistics.median(theirs[warm:])
    tokens = sum(len(r.ids) for r in batch_at(0)["text"])
    weights = sum(p.numel() for p in model.parameters() if p.ndim == 2) - model.get_input_embeddings().weight.numel()
    share = 6.0 * weights * tokens / step / peak  # a product forward, two backward; attention is left out
    table.add_row(
        what,
        f"{tokens / step:,.0f} tokens/s, {share:.0%} of peak",
        spread([a / b for a, b in zip(ours[warm:], theirs[warm:], strict=True)], " of its time"),
        f"plain PyTorch loop, model's own loss, fused AdamW: {tokens / other:,.0f} tokens/s; {number - warm} steps in turn",
    )
