"""What goes on: bars in a terminal, elsewhere a line at least every half minute; one more per finished stage."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from ..running.store import Stage

EVERY = 25.0  # seconds between two lines where there is no terminal


class Display:
    """Shows the present work, and how long it has taken. A thread writes the lines, since not all work reports its steps."""

    def __init__(self, console: Console, quiet: bool = False, every: float = EVERY):
        self.console, self.every = console, every
        self.quiet = quiet or os.environ.get("RANK", "0") != "0"  # one of several processes speaks
        columns = (TextColumn("{task.description}", style="dim"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
        self.bars = Progress(*columns, console=console, transient=True, disable=self.quiet or not console.is_terminal)
        self.task = self.bars.add_task("", total=None)
        self.what, self.done, self.of = "starting", 0, 1
        self.began = self.first = monotonic()  # the present work; its first step that was seen
        self._from = 0  # steps that were done then
        self._ended = threading.Event()

    def update(self, what: str, done: int, of: int) -> None:
        """Say how far the present work is; `of` is 1 where it has no steps."""
        if of != self.of or done < self.done:  # another piece of work
            self.first, self._from = monotonic(), done
        self.what, self.done, self.of = what, done, of
        self.bars.update(self.task, description=what, completed=done, total=of)

    def begin(self, what: str) -> None:
        """Say that something new begins."""
        self.began, self.of = monotonic(), 0
        self.update(what, 0, 1)
        self.bars.reset(self.task)

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, highlight=False, markup=False)

    @property
    def ahead(self) -> float | None:
        """Seconds that the present work will take still, as its steps went so far; None if they do not tell."""
        if self.of <= 1 or self.done <= self._from:
            return None
        return (monotonic() - self.first) / (self.done - self._from) * (self.of - self.done)

    def line(self) -> str:
        """The present work in words."""
        steps = f": {self.done:,} of {self.of:,}" if self.of > 1 else ""
        left = f", about {duration(self.ahead)} left" if self.ahead is not None else ""
        return f"          {self.what}{steps}, {duration(monotonic() - self.began)} so far{left}"

    def _pulse(self) -> None:
        while not self._ended.wait(self.every):
            self.say(self.line())

    def __enter__(self) -> Self:
        self.bars.start()
        if self.bars.disable and not self.quiet:
            threading.Thread(target=self._pulse, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.bars.stop()


class RunDisplay(Display):
    """A display of a whole run: its stages, and how long those that are left will take."""

    run: Any = None
    estimates: Any = None
    todo: Sequence[Stage] = ()

    def plan(self, run: Any, estimates: Any) -> None:
        """Show the stages of a run from now on."""
        self.run, self.estimates = run, estimates
        self.todo = [s for s in run.plan if not run.store.done(s)]
        self.stages = self.bars.add_task("", total=len(run.plan))
        self._count()

    def started(self, stage: Stage) -> None:
        if self.estimates:
            self.begin(stage.label)
            self.todo = self.todo[self.todo.index(stage) :]  # another process may have made some
            self._count()
            if not self.console.is_terminal:
                place, of = len(self.run.plan) - len(self.todo) + 1, len(self.run.plan)
                self.say(f"stage {place} of {of}: {stage.label}, about {duration(self.estimates.seconds(stage))}")

    def finished(self, stage: Stage) -> None:
        if self.estimates:
            manifest = self.run.store.manifest(stage)
            self.estimates.learn(manifest)
            self.todo = self.todo[1:]
            self._count()
            self.say(f"{manifest['seconds']:7.1f} s  {stage.label}")

    def line(self) -> str:
        return super().line() + (f"; all stages: about {duration(self.left)} left" if self.todo else "")

    @property
    def left(self) -> float:
        """Seconds that the run will take still."""
        if not self.todo:
            return 0.0
        seconds = self.estimates.seconds
        rest = seconds(self.todo[0]) - (monotonic() - self.began) if self.ahead is None else self.ahead
        return max(0.0, rest) + sum(map(seconds, self.todo[1:]))

    def kept(self) -> str:
        """What an interruption leaves."""
        if self.run is None:
            return "Nothing was begun; stages of earlier runs are kept."
        done, of, store = len(self.run.plan) - len(self.todo), len(self.run.plan), self.run.store
        names = [s.label for s in self.run.plan if s not in self.todo]
        last = f", the last of them {names[-1]}" if names else ""
        saved = bool(self.todo) and any(store.scratch(self.todo[0]).rglob("*.safetensors"))
        training = f", and so is the training of {self.todo[0].label} as it was when last saved" if saved else ""
        return f"{done} of {of} stages are kept in {store.root}{last}{training}. The same command continues."

    def _count(self) -> None:
        done = len(self.run.plan) - len(self.todo)
        self.bars.update(self.stages, completed=done, description=f"stages, about {duration(self.left)} left")


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
