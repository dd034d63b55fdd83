"""`make gpu-check`: does all that runs on a GPU work here, and how fast? One table, in at most ten minutes, on any machine.

Without a GPU it takes tiny shapes on the CPU and says so: the checks mean the same, the rates then mean nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ..commands.progress import Display, hush
from ..common.processes import device, keep_memory, machine, start_distributed
from ..common.types import Batch, Row
from ..models.precision import config_of, speeds_of
from ..models.subject import Subject, open_subject
from ..training.loop import Trained, train
from ..training.losses import language_model_loss
from ..training.recipe import Recipe
from .budget import Budget
from .reading import SHAPES, matmul_peak, random_model, shape_of, shapes
from .training import steps

LIMIT = 600  # seconds for all of it
READING, TRAINING = 60, 45  # for each shape: a comparison ends with the round that it is in
SUITE = 60  # seconds that must be left for the suite to be tried
ADAM = 20  # bytes a weight takes in training: itself, gradient, two of Adam's, and what a pass holds beside them
WIDTH = 160  # characters
ROW = 160  # tokens of a row in the trainings that must repeat: attention over more than one block, as in suites
SMALL = {"a tiny shape": (32, 2, 2)}


class OverError(Exception):
    """The time for all of it is over."""


@dataclass(frozen=True)
class Size:
    """What is measured: shapes (width, layers, heads), rows of a training step, tokens of a row."""

    shapes: dict[str, tuple[int, int, int]]
    rows: int
    tokens: int


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raises OverError in the middle of whatever goes on when so much time has passed."""

    def over(*_: object) -> None:
        raise OverError

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def same(a: Trained, b: Trained) -> bool:
    """Whether two trainings left the same weights, bit for bit."""
    return a.state.keys() == b.state.keys() and all(torch.equal(a.state[k], b.state[k]) for k in a.state)


def checks(base: Subject, precision: str, folder: Path) -> str:
    """Trains a small model twice, and once with an interruption in the middle: the weights must be the same bit for bit."""
    rows = [Row(tuple((7 * i + 3 * j) % 4000 + 1 for j in range(ROW))) for i in range(16)]

    def once(resume: Path | None = None, until: int | None = None) -> Trained:
        def stop(_: str, step: int, of: int) -> None:
            if step == until:
                raise InterruptedError

        recipe = Recipe(steps=6, lr=1e-3, precision=precision)
        return train(base.fresh(), lambda _: {"text": rows}, language_model_loss, recipe, resume=resume, save_every=0, progress=stop)

    first, second = once(), once()
    with suppress(InterruptedError):
        once(folder, until=4)
    parts = {"again": same(first, second), "resumed": same(first, once(folder))}
    return ", ".join(f"{what}: {'the same bits' if equal else 'OTHER WEIGHTS'}" for what, equal in parts.items())


def exact(n: int = 1024) -> str:
    """How far a product in fp32 is from one in fp64: tf32 and the like, which are taken for fp32 by some settings, show here."""
    a, b = (torch.randn(n, n, device=device()) for _ in range(2))
    apart = float(((a @ b).double() - a.double() @ b.double()).abs().max() / n**0.5)
    return f"off by {apart:.1e} of a product's size: " + ("fp32" if apart < 1e-5 else "NOT fp32")


def fits(shape: tuple[int, int, int]) -> bool:
    """Whether two trainings of it, ours and the plain one, fit into the memory of this device together."""
    width, layers, _ = shape
    weights = 12 * layers * width**2 + 2 * 50304 * width
    return device().type == "cpu" or 2 * ADAM * weights < torch.cuda.mem_get_info(device())[0]


def suite(seconds: float, folder: Path) -> tuple[str, str]:
    """The quick suite end to end in a process of its own, which is ended when its time is over: (how it went, the last it said)."""
    name = __name__.rsplit(".", 2)[0]
    asked = [sys.executable, "-m", f"{name}.cli", "run", "suite=quick", f"--store={folder}/store", f"--report={folder}/report"]
    began = time.perf_counter()
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=seconds, check=False, env=os.environ | {"COLUMNS": "120"})
    except subprocess.TimeoutExpired:
        made = len(list((folder / "store").glob("[a-z]*/*/manifest.json")))
        return f"{made} stages in {seconds:.0f} s, then the time was over", ""
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()] or [""]
    return ("done" if not done.returncode else f"FAILED with {done.returncode}") + f" in {time.perf_counter() - began:.0f} s", lines[-1][
        :80
    ]


def parts(table: Table, display: Display, size: Size, folder: Path, until: float, whole: bool) -> None:
    """Fill the table, part by part: what is quick and tells most comes first."""
    base = open_subject("pocket")
    precision = speeds_of(config_of(base)).faster
    display.begin("products")
    table.add_row("device", machine(), "", f"torch {torch.__version__}, {precision}")
    table.add_row("fp32 product", exact(), "", "fp64")
    peaks = {p: matmul_peak(p) for p in dict.fromkeys(("fp32", precision))}
    table.add_row("product", ", ".join(f"{p} {peak / 1e12:.3g} TFLOP/s" for p, peak in peaks.items()), "", "the peaks below")
    for p in peaks:
        display.begin(f"training twice and with an interruption, {p}")
        table.add_row(f"training, {p}", checks(base, p, folder / f"resume-{p}"), "", "a first training")
    for name, shape in size.shapes.items():
        what = f"training step, {name}, {precision}"
        if not fits(shape):
            table.add_row(what, "left out", "", "two trainings at once do not fit into this memory")
            continue
        batches = _batches(size)
        fresh: Callable[[], Any] = lambda shape=shape: random_model(shape_of(*shape))  # noqa: E731
        steps(what, fresh, batches, table, display, precision, peaks[precision], Budget(min(TRAINING, until - time.perf_counter()), 1))
        _emptied()
    for name, shape in size.shapes.items():
        seconds = min(READING, until - time.perf_counter())
        shapes(folder, base, {precision: peaks[precision]}, table, display, {name: shape}, size.tokens, seconds)
        _emptied()
    left = until - time.perf_counter()
    if whole and left > SUITE:
        display.begin("the quick suite")
        table.add_row("quick suite", *suite(left - 10, folder), "")
    else:
        table.add_row("quick suite", "left out", "", "the time is over" if whole else "no GPU: make run")


def _batches(size: Size) -> Callable[[int], Batch]:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50000, (size.rows, size.tokens), generator=draw).tolist()
    return lambda step: {"text": [Row(tuple(row)) for row in ids]}


def _emptied() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main(limit: int = LIMIT) -> None:
    """Print the table, also where something failed or the time is over; exits with 1 where something failed."""
    hush()
    start_distributed()
    keep_memory()
    gpu = torch.cuda.is_available()
    size = Size(SHAPES, 32, 160) if gpu else Size(SMALL, 4, 40)
    table = Table(box=None, pad_edge=False)
    for column in ("what", "figure", "ratio", "against"):
        table.add_column(column, overflow="fold")
    console = Console(width=WIDTH)
    if not gpu:
        console.print("No GPU here: tiny shapes on the CPU. The checks mean the same; the rates mean nothing.")
    try:
        with within(limit), Display(console) as display, tempfile.TemporaryDirectory() as folder:
            parts(table, display, size, Path(folder), time.perf_counter() + limit, gpu)
    except OverError:
        table.add_row("the rest", "left out", "", f"{limit} s were over")
    finally:
        console.print(table)
    if any(word in str(cell) for cell in table.columns[1].cells for word in ("FAILED", "OTHER WEIGHTS", "NOT fp32")):
        sys.exit(1)


if __name__ == "__main__":
    main()
