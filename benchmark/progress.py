"""One progress display for long work, and one line per finished stage."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .store import Stage


def _bars(console: Console, quiet: bool = False) -> Progress:
    columns = (TextColumn("{task.description}", style="dim"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)


class Display:
    """Shows the plan's progress and, below it, the progress inside the current stage."""

    def __init__(self, run: Any, console: Console, quiet: bool = False):
        self.run, self.console, self.quiet = run, console, quiet
        self.bars = _bars(console, quiet)
        done = sum(run.store.done(s) for s in run.plan)
        self.plan = self.bars.add_task("stages", total=len(run.plan), completed=done)
        self.stage = self.bars.add_task("", total=None)

    def update(self, what: str, done: int, of: int) -> None:
        self.bars.update(self.stage, description=what, completed=done, total=of)

    def finished(self, stage: Stage) -> None:
        self.bars.advance(self.plan)
        if not self.quiet:
            manifest = self.run.store.manifest(stage)
            self.console.print(f"{manifest['seconds']:7.1f} s  {stage.label}", highlight=False, markup=False)

    def __enter__(self) -> Display:
        hush()
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()


@contextmanager
def simple(console: Console, label: str, total: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A bar for one long training: call with (step, loss terms)."""
    hush()
    with _bars(console) as bars:
        task = bars.add_task(label, total=total)

        def update(step: int, values: dict[str, float]) -> None:
            text = "  ".join(f"{k} {v:.3f}" for k, v in values.items())
            bars.update(task, completed=step, description=f"{label}  {text}")
            if not console.is_terminal and step % 100 == 0:
                console.print(f"step {step}: {text}", highlight=False)

        yield update


def hush() -> None:
    """Libraries' own bars and start-up notices make way for ours."""
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    for name in ("DeepSpeed", "deepspeed", "torch.distributed", "lm_eval"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
