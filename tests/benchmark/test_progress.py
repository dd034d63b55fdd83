"""What goes on is said: by a thread where the work says nothing, in words that hold the rest."""

from __future__ import annotations

import time
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from palimpsest.benchmark.commands import progress
from palimpsest.benchmark.commands.progress import Display, RunDisplay, duration
from palimpsest.benchmark.running.store import Stage, Store


@pytest.fixture
def out() -> StringIO:
    return StringIO()


@pytest.fixture
def console(out: StringIO) -> Console:
    return Console(file=out, width=200)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress, "monotonic", lambda: now.seconds)
    return now


def wait_for(out: StringIO, text: str) -> None:
    end = time.monotonic() + 10
    while text not in out.getvalue() and time.monotonic() < end:
        time.sleep(0.01)
    assert text in out.getvalue()


def test_work_that_reports_nothing_is_spoken_of_in_a_log_file(console: Console, out: StringIO) -> None:
    with Display(console, every=0.01) as display:
        display.begin("quality of base")
        wait_for(out, "quality of base, 0 s so far\n")


def test_nothing_is_said_any_more_when_it_is_over(console: Console, out: StringIO) -> None:
    with Display(console, every=0.01):
        wait_for(out, "starting")
    time.sleep(0.05)
    said = out.getvalue()
    time.sleep(0.05)
    assert out.getvalue() == said


def test_a_line_comes_at_least_every_half_minute() -> None:
    assert progress.EVERY <= 30


@pytest.mark.parametrize("quiet", [{"quiet": True}, {}])
def test_only_one_of_several_processes_speaks(console: Console, out: StringIO, quiet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if not quiet:
        monkeypatch.setenv("RANK", "1")
    with Display(console, every=0.005, **quiet) as display:
        display.say("hello")
        time.sleep(0.05)
    assert out.getvalue() == ""


def test_a_line_says_steps_elapsed_time_and_the_rest(console: Console, clock: SimpleNamespace) -> None:
    display = Display(console)
    display.begin("inject, seed 0")
    clock.seconds = 100  # until the first step
    display.update("inject, seed 0  nll 3.100", 1, 41)
    assert display.line().strip() == "inject, seed 0  nll 3.100: 1 of 41, 2 min so far"
    clock.seconds = 120
    display.update("inject, seed 0  nll 2.900", 11, 41)
    assert display.line().strip() == "inject, seed 0  nll 2.900: 11 of 41, 2 min so far, about 60 s left"
    display.update("another piece of the same stage", 0, 500)
    assert display.line().strip() == "another piece of the same stage: 0 of 500, 2 min so far"


def stages(store: Store, *names: str) -> tuple[Any, Any]:
    """A run of stages that take ten seconds each, by an estimate that learns nothing."""
    plan = [Stage("held", name, {"name": name}, lambda folder: None) for name in names]
    return SimpleNamespace(plan=plan, store=store), SimpleNamespace(seconds=lambda stage: 10.0, learn=lambda manifest: None)


def test_stages_are_announced_and_the_rest_shrinks(console: Console, out: StringIO, clock: SimpleNamespace, tmp_path: Path) -> None:
    run, estimates = stages(Store(tmp_path), "one", "two", "three")
    run.store.ensure(run.plan[0])
    display = RunDisplay(console)
    assert display.kept() == "Nothing was begun; stages of earlier runs are kept."
    display.plan(run, estimates)
    display.started(run.plan[1])
    assert out.getvalue() == "stage 2 of 3: two, about 10 s\n"
    clock.seconds = 4
    assert display.line().strip() == "two, 4 s so far; all stages: about 16 s left"
    display.update("two", 1, 11)
    clock.seconds = 5
    display.update("two", 2, 11)
    assert display.left == 9 + 10  # by its own steps
    run.store.ensure(run.plan[1])
    display.finished(run.plan[1])
    assert out.getvalue().splitlines()[-1].split() == ["0.0", "s", "two"]
    assert display.kept() == f"2 of 3 stages are kept in {tmp_path}, the last of them two. The same command continues."
    run.store.ensure(run.plan[2])
    display.started(run.plan[2])
    display.finished(run.plan[2])
    assert display.left == 0


def test_in_a_terminal_bars_say_it(out: StringIO, tmp_path: Path) -> None:
    run, estimates = stages(Store(tmp_path), "one", "two")
    with RunDisplay(Console(file=out, force_terminal=True, width=120), every=0.001) as display:
        display.plan(run, estimates)
        display.started(run.plan[0])
        display.update("one  nll 2.000", 3, 7)
        display.bars.refresh()
        time.sleep(0.02)
    assert "one  nll 2.000" in out.getvalue()
    assert "3/7" in out.getvalue()
    assert "stages, about 20 s left" in out.getvalue()
    assert "stage 1 of 2" not in out.getvalue()
    assert "so far" not in out.getvalue()


def test_an_interruption_speaks_of_a_training_that_was_saved(console: Console, tmp_path: Path) -> None:
    run, estimates = stages(Store(tmp_path), "one")
    display = RunDisplay(console)
    display.plan(run, estimates)
    folder = run.store.scratch(run.plan[0]) / "fit0"
    folder.mkdir(parents=True)
    (folder / "state.safetensors").touch()
    assert display.kept() == (
        f"0 of 1 stages are kept in {tmp_path}, and so is the training of one as it was when last saved. The same command continues."
    )


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (7200, "2.0 h")])
def test_a_duration_has_the_unit_that_one_would_say(seconds: float, text: str) -> None:
    assert duration(seconds) == text
