"""`make bench`: timings as ratios against a named alternative in the same run. Separate from the tests; machines are noisy."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from .attacking import TWIN
from .bench_battery import screening, tiers
from .bench_reading import matmul_peak, reading, shapes, timed
from .config import load_suite
from .engine import device, keep_memory, start_distributed
from .losses import language_model_loss
from .pipeline import Run
from .progress import hush
from .scoring import HELD
from .store import Store
from .subject import Subject
from .training import Recipe, train


def training(run: Run, table: Table, steps: int = 24) -> None:
    """A step of our loop against a plain PyTorch loop over the same model with its own loss, bf16 autocast, same batch, in turn."""
    stream = run.stream(run.suite.seeds[0])
    model = run.base.fresh().to(device()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95))
    ours, theirs = [], []

    def plain(ids: torch.Tensor) -> None:
        with torch.autocast(device().type, torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def after(step: int, _: object) -> None:
        ours.append(time.perf_counter() - began[0])
        ids = torch.tensor([r.ids for r in stream.batch_at(step)["text"]], device=device())
        theirs.append(timed(lambda: plain(ids))[0])
        began[0] = time.perf_counter()

    began = [time.perf_counter()]
    train(run.base.fresh(), stream.batch_at, language_model_loss, Recipe(steps=steps, lr=1e-4), progress=after)
    warm = steps // 4
    step, other = statistics.median(ours[warm:]), statistics.median(theirs[warm:])
    ratio = statistics.median(a / b for a, b in zip(ours[warm:], theirs[warm:], strict=True))
    tokens = sum(len(r.ids) for r in stream.batch_at(0)["text"])
    table.add_row(
        "training step", f"{tokens / step:,.0f} tokens/s", f"{ratio:.2f} of its time",
        f"plain PyTorch loop, model's own loss: {tokens / other:,.0f} tokens/s; median of {steps - warm} steps in turn",
    )  # fmt: skip


def main() -> None:
    """Print the table; reads the quick suite's held, unlearned (NPO) and retrained models if they are in the store, else the base model."""
    hush()
    start_distributed()
    keep_memory()
    run = Run(load_suite("quick"), Store(Path("palimpsest-store")))
    table = Table(box=None, pad_edge=False)
    for column in ("what", "figure", "ratio", "against"):
        table.add_column(column)
    training(run, table)
    peak = matmul_peak()
    table.add_row("bf16 product", f"{peak / 1e9:,.0f} GFLOP/s", "", "the peak of this machine")
    rows = {m.id: m.row for m in run.encoded(0) if m.role == "forget"}
    few = dict(list(rows.items())[:16])
    for what in (HELD, "npo", TWIN):
        stage = run.model(what, 0)
        if run.store.done(stage):
            reading(what, Subject(run.store.folder(stage)), few, peak, table)
    if not run.store.done(run.held(0)):
        reading("base", run.base, few, peak, table)
    if torch.cuda.is_available():
        with tempfile.TemporaryDirectory() as folder:
            shapes(Path(folder), run.base, peak, table)
    for suite in (run, Run(load_suite("pocket"), run.store)):
        tiers(suite, table)
        screening(suite, table)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
