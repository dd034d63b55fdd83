"""`make bench`: timings as ratios against a named alternative in the same run. Separate from the tests; machines are noisy."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ..commands.progress import Display, hush
from ..common.processes import device, keep_memory, start_distributed
from ..common.types import HELD, TWIN
from ..models.precision import config_of, speeds_of
from ..models.subject import Subject
from ..running.plan import Run
from ..running.store import Store
from ..suites.config import load_suite
from .attacks import screening, tiers
from .budget import Budget
from .pieces import pieces
from .reading import Peaks, matmul_peak, reading, shapes
from .training import training

IMITATION = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}  # makes any x86 processor one without bf16
MODELS = (HELD, "npo", TWIN)
TRAINING, READING, SCREENING = 90, 300, 180  # seconds for each part where bf16 is not the faster; the last for each suite
WIDTH = 160  # characters
SMALL = 256  # size of a product in a precision that is hopeless here


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


def models(run: Run, table: Table, display: Display, peaks: Peaks, seconds: float) -> None:
    """Reading of the quick suite's held, unlearned (NPO) and retrained models if they are in the store, else of the base model."""
    rows = {m.id: m.row for m in run.encoded(0) if m.role == "forget"}
    few = dict(list(rows.items())[:16])
    stages = {what: run.model(what, 0).stage for what in MODELS}
    found = {what: Subject(run.store.folder(s)) for what, s in stages.items() if s and run.store.done(s)} or {"base": run.base}
    budget = Budget(seconds, len(found))
    for what, subject in found.items():
        reading(what, subject, few, peaks, table, display, budget)


def parts(run: Run, table: Table, display: Display) -> None:
    """Fill the table, part by part; where bf16 is no faster than fp32, each has its time."""
    display.begin("what this machine's products reach")
    precision, peaks = machine(run, table)
    if precision != "bf16":
        what = f"{TRAINING} s for training, {READING} s for reading, {SCREENING} s for beam search"
        table.add_row("time", what, "", "all there is to compare, as where bf16 is the faster; longer where that is the least")

    def at_most(seconds: float) -> float:
        return math.inf if precision == "bf16" else seconds

    training(run, table, display, precision, peaks, Budget(at_most(TRAINING), 1))
    pieces(table, display, precision)
    models(run, table, display, peaks, at_most(READING))
    if torch.cuda.is_available():
        with tempfile.TemporaryDirectory() as folder:
            shapes(Path(folder), run.base, peaks, table, display)
    for suite in (run, Run(load_suite("pocket"), run.store)):
        tiers(suite, table)
        screening(suite, table, display, at_most(SCREENING))


def main() -> None:
    """Print the table, also of a bench that was interrupted."""
    hush()
    start_distributed()
    keep_memory()
    run = Run(load_suite("quick"), Store(Path("palimpsest-store")))
    table = Table(box=None, pad_edge=False)
    for column in ("what", "figure", "ratio", "against"):
        table.add_column(column)
    console = Console(width=WIDTH)
    try:
        with Display(console) as display:
            parts(run, table, display)
    finally:
        console.print(table)


if __name__ == "__main__":
    main()
