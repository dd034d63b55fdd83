"""`make bench`: timings as ratios against a named alternative in the same run. Separate from the tests; machines are noisy."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from .bench_battery import screening, tiers
from .bench_reading import matmul_peak, reading, shapes
from .config import load_suite
from .engine import device, keep_memory, start_distributed
from .losses import language_model_loss
from .pipeline import Run
from .progress import hush
from .store import Store
from .subject import Subject
from .training import Recipe, train


def training(run: Run, table: Table, steps: int = 12) -> None:
    """A step of our loop against a plain PyTorch loop over the same model with its own loss, bf16 autocast, same batch."""
    stream = run.stream(run.suite.seeds[0])
    rows = torch.tensor([[r.ids for r in stream.batch_at(s)["text"]] for s in range(steps)])
    times: list[float] = []
    train(
        run.base.fresh(),
        stream.batch_at,
        language_model_loss,
        Recipe(steps=steps, lr=1e-4),
        progress=lambda *_: times.append(time.perf_counter()),
    )
    model = run.base.fresh().to(device()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95))
    plain = [time.perf_counter()]
    for ids in rows.to(device()):
        with torch.autocast(device().type, torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        plain.append(time.perf_counter())
    ours, theirs = _step(times), _step(plain)
    table.add_row(
        "training step",
        f"{rows.shape[1] * rows.shape[2] / ours:,.0f} tokens/s",
        f"{ours / theirs:.2f} of its time",
        "plain PyTorch loop, model's own loss",
    )


def main() -> None:
    """Print the table; reads the quick suite's held and retrained models if they are in the store, else the base model."""
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
    few = dict(list(rows.items())[:4])
    for what, stage in (("held", run.held(0)), ("retrain", run.twin(0))):
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


def _step(times: list[float]) -> float:
    return statistics.median(b - a for a, b in itertools.pairwise(times[1:]))


if __name__ == "__main__":
    main()
