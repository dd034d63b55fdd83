"""`make bench`: timings as ratios against a named alternative in the same run. Separate from the tests; machines are noisy."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ..commands.progress import hush
from ..common.processes import device, keep_memory, start_distributed
from ..common.types import HELD, TWIN
from ..models.precision import config_of, speeds_of
from ..models.subject import Subject
from ..running.plan import Run
from ..running.store import Store
from ..suites.config import load_suite
from ..training.loop import train
from ..training.losses import language_model_loss
from ..training.recipe import Recipe
from .attacks import screening, tiers
from .reading import Peaks, matmul_peak, reading, shapes, timed

IMITATION = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}  # makes any x86 processor one without bf16
SMALL = 256  # size of a product in a precision that is hopeless here


def training(run: Run, table: Table, precision: str, peaks: Peaks, steps: int = 24) -> None:
    """A step of our loop against a plain PyTorch loop over the same model with its own loss, same precision and batch, in turn."""
    stream = run.stream(run.suite.seeds[0])
    model = run.base.fresh().to(device()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95))
    ours, theirs = [], []

    def plain(ids: torch.Tensor) -> None:
        with torch.autocast(device().type, torch.bfloat16, enabled=precision == "bf16"):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def after(what: str, step: int, of: int) -> None:
        ours.append(time.perf_counter() - began[0])
        ids = torch.tensor([r.ids for r in stream.batch_at(step)["text"]], device=device())
        theirs.append(timed(lambda: plain(ids))[0])
        began[0] = time.perf_counter()

    began = [time.perf_counter()]
    train(run.base.fresh(), stream.batch_at, language_model_loss, Recipe(steps=steps, lr=1e-4, precision=precision), progress=after)
    warm = steps // 4
    step, other = statistics.median(ours[warm:]), statistics.median(theirs[warm:])
    ratio = statistics.median(a / b for a, b in zip(ours[warm:], theirs[warm:], strict=True))
    tokens = sum(len(r.ids) for r in stream.batch_at(0)["text"])
    weights = sum(p.numel() for p in model.parameters() if p.ndim == 2) - model.get_input_embeddings().weight.numel()
    share = 6.0 * weights * tokens / step / peaks[precision]  # a product forward, two backward; attention is left out
    table.add_row(
        f"training step, {precision}",
        f"{tokens / step:,.0f} tokens/s, {share:.0%} of peak",
        f"{ratio:.2f} of its time",
        f"plain PyTorch loop, model's own loss: {tokens / other:,.0f} tokens/s; median of {steps - warm} steps in turn",
    )


def machine(run: Run, table: Table) -> tuple[str, Peaks]:
    """What this machine's products reach and which precision `auto` takes; the peaks of those precisions that are worth measuring."""
    config, peaks = config_of(run.base), {"fp32": matmul_peak("fp32")}
    table.add_row("fp32 product", f"{peaks['fp32'] / 1e9:,.0f} GFLOP/s", "", "the peak of this machine in fp32")
    speeds = speeds_of(config, run.suite.injection.batch * run.suite.row)
    low = matmul_peak("bf16", n=SMALL if speeds.hopeless else None)
    table.add_row("bf16 product", f"{low / 1e9:,.3g} GFLOP/s", f"{low / peaks['fp32']:.2g}x", "the same in fp32")
    if speeds.hopeless:
        table.add_row("bf16", "left out", "", f"{speeds}, in the model's shapes")
    else:
        peaks["bf16"] = low
    table.add_row("precision=auto", speeds.faster, "", f"{speeds}, in the model's shapes")
    if device().type == "cpu":
        table.add_row("bf16, imitating AVX2", imitated(run.base.folder), "", " ".join(f"{k}={v}" for k, v in IMITATION.items()))
    return speeds.faster, peaks


def imitated(folder: Path) -> str:
    """The speeds of the model's products in a process that is told to use AVX2 only."""
    code = f"import pathlib; from {config_of.__module__} import *; print(speeds_of(config_of(Subject(pathlib.Path({str(folder)!r})))))"
    code = f"from {Subject.__module__} import Subject; {code}"
    said = subprocess.run([sys.executable, "-c", code], env=os.environ | IMITATION, capture_output=True, text=True, check=True)
    return said.stdout.strip()


def main() -> None:
    """Print the table; reads the quick suite's held, unlearned (NPO) and retrained models if they are in the store, else the base model."""
    hush()
    start_distributed()
    keep_memory()
    run = Run(load_suite("quick"), Store(Path("palimpsest-store")))
    table = Table(box=None, pad_edge=False)
    for column in ("what", "figure", "ratio", "against"):
        table.add_column(column)
    precision, peaks = machine(run, table)
    training(run, table, precision, peaks)
    rows = {m.id: m.row for m in run.encoded(0) if m.role == "forget"}
    few = dict(list(rows.items())[:16])
    for what in (HELD, "npo", TWIN):
        stage = run.model(what, 0).stage
        if stage and run.store.done(stage):
            reading(what, Subject(run.store.folder(stage)), few, peaks, table)
    if not run.store.done(run.held(0)):
        reading("base", run.base, few, peaks, table)
    if torch.cuda.is_available():
        with tempfile.TemporaryDirectory() as folder:
            shapes(Path(folder), run.base, peaks, table)
    for suite in (run, Run(load_suite("pocket"), run.store)):
        tiers(suite, table)
        screening(suite, table)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
