"""What is shown of a run whose stages are made by a cluster: one line for each worker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from rich.console import Console

from .interruption import interruption
from .progress import Display, hush
from .reporting import reported
from .shared import bound_run, console, memory_line, named_suite, precision_line, rates_line

if TYPE_CHECKING:
    from ..running.reports import Line
    from ..running.store import Stage


class ClusterDisplay(Display):
    """Lines of workers: bars in a terminal, elsewhere all of them at least every half minute; one more per finished stage."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.run: Any = None
        self.left = 0
        self._lines: dict[str, Line] = {}
        self._rows: dict[str, Any] = {}  # worker -> its bar
        self._said = monotonic()

    def plan(self, run: Any) -> None:
        """Show a run from now on."""
        self.run, self.left = run, sum(not run.store.done(s) for s in run.plan)
        self._count()

    def show(self, lines: Mapping[str, Line]) -> None:
        """What every worker does now."""
        self._lines = dict(lines)
        for gone in self._rows.keys() - lines.keys():
            self.bars.remove_task(self._rows.pop(gone))
        for worker, (what, done, of) in lines.items():
            if worker not in self._rows:
                self._rows[worker] = self.bars.add_task("", total=of)
            self.bars.update(self._rows[worker], description=f"{worker}: {what}", completed=done, total=of)
        if not self.console.is_terminal and monotonic() - self._said >= self.every:
            self._tell()

    def finished(self, stage: Stage, worker: str) -> None:
        self.left -= 1
        self._count()
        self.say(f"{self.run.store.manifest(stage)['seconds']:7.1f} s  {stage.label} ({worker})")

    def kept(self) -> str:
        """What an interruption leaves."""
        if self.run is None:
            return "Nothing was begun; stages of earlier runs are kept."
        done, of = len(self.run.plan) - self.left, len(self.run.plan)
        return f"{done} of {of} stages are kept in {self.run.store.root}. The same command continues."

    def line(self) -> str:
        """The thread that speaks while nothing else does has nothing to add to the workers' lines."""
        if not self.run:
            return super().line()
        stages = f"{self.left} {'stage' if self.left == 1 else 'stages'} to do"
        busy = len(self._lines)
        return f"          {f'{busy} workers at work' if busy > 1 else '1 worker at work' if busy else 'waiting for workers'}, {stages}"

    def _tell(self) -> None:
        self._said = monotonic()
        for worker, (what, done, of) in sorted(self._lines.items()):
            self.say(f"          {worker}: {what}{f': {done:,} of {of:,}' if of > 1 else ''}")

    def _count(self) -> None:
        of = len(self.run.plan)
        self.update(f"{self.left} of {of} stages to do", of - self.left, of)


def run_on(on: str, ranks: int, overrides: list[str] | None, store: Path, report: Path) -> None:
    """`palimpsest run` with its stages made on a cluster."""
    with ClusterDisplay(console) as display:
        interruption.kept = display.kept
        display.say(f"{named_suite(overrides).name}: loading libraries, corpus and model (up to a minute; more when a corpus is new)")
        display.begin("loading libraries, corpus and model")
        from ..common.paths import writable
        from ..running.cluster import Cluster, address_of, engine

        hush()
        engine(address := address_of(on))  # before what takes a minute
        bound = bound_run(overrides, store)
        writable(report / bound.suite.name / "report.md")
        bound.progress = display.update
        bound.validate()
        display.say(precision_line(bound))
        display.say(memory_line(bound, ranks))
        if rates := rates_line(bound):
            display.say(rates)
        display.plan(bound)
        Cluster(bound, ranks, display.finished, display.show).execute(address)
    reported(bound, report / bound.suite.name)
