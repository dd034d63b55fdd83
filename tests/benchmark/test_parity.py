"""The number of processes and the ZeRO stage do not change a result: 1 and 2 processes, ZeRO 0 to 3.

`python -m tests.benchmark.test_parity` prints the measured deviations.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from palimpsest.benchmark.models.subject import Subject
from tests.benchmark import parity_worker
from tests.benchmark.parity_worker import (
    CASES,
    STAGES,
    STEPS,
    deviation,
    deviations,
    launch_by,
    read,
    run_all,
    table,
    write_models,
)

LOSS, WEIGHT = 1e-5, 1e-3  # measured: 1e-6 and 2e-4


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which every rank of every run left its losses and weights."""
    folder = tmp_path_factory.mktemp("parity")
    run_all(folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_losses_and_weights_are_those_of_one_process_under_zero_0(runs: Path, case: str) -> None:
    found = {(world, stage): (loss, weight) for name, world, stage, loss, weight in deviations(runs) if name == case}
    assert sorted(found) == [(w, s) for w in (1, 2) for s in STAGES if (w, s) != (1, 0)]
    assert {run: d for run, d in found.items() if not (d[0] < LOSS and d[1] < WEIGHT)} == {}


@pytest.mark.parametrize("case", CASES)
def test_every_rank_ends_with_the_same_full_weights_and_history(runs: Path, case: str) -> None:
    for stage in STAGES:
        first, second = (read(runs, case, stage, 2, rank) for rank in (0, 1))
        assert first.steps == second.steps
        assert all(torch.equal(first.weights[k], second.weights[k]) for k in first.weights)


@pytest.mark.parametrize("case", CASES)
def test_the_runs_that_are_compared_have_learned_something(runs: Path, case: str) -> None:
    """Else parity would say nothing."""
    end = read(runs, case, 0, 1)
    with torch.no_grad():
        start = dict(Subject(runs / CASES[case].model).fresh().named_parameters())
        moved = {k: float((w - start[k]).abs().max()) for k, w in end.weights.items()}
    assert len(end.steps) == STEPS
    assert min(moved.values()) > 1e-4
    assert max(moved.values()) > 2e-3


def test_the_table_has_a_row_for_every_loss(runs: Path) -> None:
    text = table(runs)
    print("\n" + text)
    assert [line.split(" | ")[0].strip("| ") for line in text.splitlines()[2:]] == list(CASES)


@pytest.mark.parametrize(
    ("launcher", "stage", "cases"), [("deepspeed", 3, ["gradient_ascent", "npo, retain kl"]), ("torchrun", 2, ["grad_diff"])]
)
def test_ranks_that_a_launcher_starts_give_the_same_result(launcher: str, stage: int, cases: list[str], runs: Path, tmp_path: Path) -> None:
    write_models(tmp_path)
    launch_by(launcher, tmp_path, [stage], cases)
    for case in cases:
        start = dict(Subject(runs / CASES[case].model).fresh().named_parameters())
        for rank in (0, 1):
            loss, weight = deviation(read(tmp_path, case, stage, 2, rank), read(runs, case, 0, 1), start)
            assert (case, loss < LOSS, weight < WEIGHT) == (case, True, True)


if __name__ == "__main__":
    parity_worker.print_table()
