"""What is shown of a run on a cluster: a line for each worker, one more for each finished stage, and what an interruption leaves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rich.console import Console

from palimpsest.benchmark.commands.cluster import ClusterDisplay
from tests.benchmark.stages import stage

STAGES = [stage(label=name, name=name) for name in ("inject", "quality", "npo")]


@pytest.fixture
def display() -> ClusterDisplay:
    shown = ClusterDisplay(Console(width=200, force_terminal=False))
    assert "Nothing was begun" in shown.kept()
    manifests = {"manifest": lambda s: {"seconds": 1.5}, "done": lambda s: s.label == "quality", "root": "here"}
    shown.plan(SimpleNamespace(plan=STAGES, store=SimpleNamespace(**manifests)))
    shown.every = 0
    return shown


def test_every_worker_has_a_line_with_its_steps(display: ClusterDisplay, capsys: pytest.CaptureFixture[str]) -> None:
    display.show({"node2 gpu 0": ("npo, seed 0", 0, 1), "node1 gpu 1": ("inject", 1200, 2400)})
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["node1 gpu 1: inject: 1,200 of 2,400", "node2 gpu 0: npo, seed 0"]
    display.show({"node2 gpu 0": ("npo, seed 0", 3, 9)})
    assert "node1" not in capsys.readouterr().out, "it has nothing to do"


def test_a_finished_stage_is_told_with_its_worker_and_counted(display: ClusterDisplay, capsys: pytest.CaptureFixture[str]) -> None:
    assert display.kept() == "1 of 3 stages are kept in here. The same command continues."
    display.finished(STAGES[0], "node1 gpu 1")
    assert "1.5 s  inject (node1 gpu 1)" in capsys.readouterr().out
    assert display.kept().startswith("2 of 3")
    assert display.line().strip() == "waiting for workers, 1 stage to do"
    display.show({"node1": ("npo", 0, 1)})
    assert display.line().strip() == "1 worker at work, 1 stage to do"
