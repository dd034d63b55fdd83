"""Methods with parts, groups or state of their own end at the same weights on 1 and 2 processes, under ZeRO 0 and 3.

Stages 1 and 2 are the loop's own business (tests/benchmark/test_parity.py); RUNS may be widened to try them here too.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from palimpsest.benchmark.models.subject import Subject
from tests.benchmark.parity_worker import deviation, write_models
from tests.methods.ranks_worker import CASES, place, read, work
from tests.ranks import ranks

LOSS, WEIGHT = 1e-5, 1e-3
RUNS = {1: (0,), 2: (0, 3)}  # processes -> ZeRO stages


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which every rank of every run left its losses and weights."""
    folder = tmp_path_factory.mktemp("ranks")
    write_models(folder)
    for world, stages in RUNS.items():
        ranks(world, work, folder, stages, limit=900)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_losses_and_weights_are_those_of_one_process_under_zero_0(runs: Path, case: str) -> None:
    reference = read(runs, case, 0, 1)
    start = {k: v for k, v in Subject(runs / CASES[case][0]).fresh().state_dict().items() if k in reference.weights}
    found = {(w, s): deviation(read(runs, case, s, w), reference, start) for w, stages in RUNS.items() for s in stages}
    assert {run: d for run, d in found.items() if not (d[0] < LOSS and d[1] < WEIGHT)} == {}


@pytest.mark.parametrize("case", CASES)
def test_every_rank_ends_with_the_same_weights_and_history(runs: Path, case: str) -> None:
    for stage in RUNS[2]:
        first, second = (read(runs, case, stage, 2, rank) for rank in (0, 1))
        assert first.steps == second.steps
        assert all(torch.equal(first.weights[k], second.weights[k]) for k in first.weights)


@pytest.mark.parametrize("case", CASES)
def test_flops_are_those_of_all_ranks_and_hardly_depend_on_the_zero_stage(runs: Path, case: str) -> None:
    """Two ranks pad less, or fill a place that is empty, and each works out the table of the reference for itself."""

    def flops(stage: int, world: int, rank: int) -> float:
        return json.loads(place(runs, case, stage, world, rank).with_suffix(".cost").read_text())["flops"]

    for stage in RUNS[2]:
        assert flops(stage, 2, 0) == flops(stage, 2, 1)
        assert flops(stage, 2, 0) == pytest.approx(flops(0, 2, 0), rel=0.02)  # measured: 1.6% for sparse_finetuning, else nothing
        assert 0.8 * flops(0, 1, 0) < flops(stage, 2, 0) < 1.6 * flops(0, 1, 0)


@pytest.mark.parametrize("case", CASES)
def test_the_runs_that_are_compared_have_changed_something(runs: Path, case: str) -> None:
    """Else parity would say nothing."""
    start = Subject(runs / CASES[case][0]).fresh().state_dict()
    end = read(runs, case, 0, 1)
    assert len(end.steps) == 4
    assert max(float((w - start[k]).abs().max()) for k, w in end.weights.items()) > 1e-3
