"""What torchrun, DeepSpeed's launcher and Slurm's srun say of a process is understood; a batch script is one process."""

from __future__ import annotations

from typing import Any

import pytest

from palimpsest.benchmark.common import processes
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.launched import OURS, adopt, first_host

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NODELIST": "gpu[03-04]",
}  # fmt: skip


def told(environment: dict[str, str]) -> dict[str, str]:
    """What is said in our words afterwards."""
    given = dict(environment)
    adopt(given)
    return {name: given[name] for name in OURS if name in given}


def test_what_torchrun_says_stands_even_within_a_slurm_step() -> None:
    assert told(TORCHRUN) == TORCHRUN
    assert told(TORCHRUN | SRUN) == TORCHRUN


def test_srun_says_who_a_task_is_and_where_the_first_one_runs() -> None:
    found = told(SRUN)
    port = int(found.pop("MASTER_PORT"))
    assert found == {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu03"}
    assert 20_000 <= port < 32_000
    assert told(SRUN | {"SLURM_PROCID": "0"})["MASTER_PORT"] == str(port), "all tasks of a step meet at one port"
    assert told(SRUN | {"SLURM_STEP_ID": "3"})["MASTER_PORT"] != str(port), "another step has another"


def test_an_address_that_was_given_stands() -> None:
    assert told(SRUN | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"})["MASTER_ADDR"] == "10.0.0.1"


@pytest.mark.parametrize(
    "alone",
    [
        {},
        {k: v for k, v in SRUN.items() if "STEP" not in k},  # the batch script of a job with eight tasks
        SRUN | {"SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_one_process_stays_alone(alone: dict[str, str]) -> None:
    assert told(alone) == {}


def test_an_address_that_is_set_is_taken_and_an_empty_one_is_none() -> None:
    odd = SRUN | {"SLURM_STEP_NODELIST": "rack[1-2]node[3-4]", "MASTER_ADDR": "rack1node3"}
    adopt(odd)
    assert (odd["MASTER_ADDR"], odd["RANK"]) == ("rack1node3", SRUN["SLURM_PROCID"])
    empty = SRUN | {"SLURM_STEP_NODELIST": "node7", "MASTER_ADDR": ""}
    adopt(empty)
    assert empty["MASTER_ADDR"] == "node7"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2"}, "LOCAL_RANK, MASTER_ADDR, MASTER_PORT not"),
        (SRUN | {"SLURM_PROCID": "x"}, "SLURM_PROCID='x'"),
        (SRUN | {"SLURM_STEP_NODELIST": "[1-2]"}, "set MASTER_ADDR"),
    ],
)
def test_half_of_it_is_refused(given: dict[str, str], why: str) -> None:
    with pytest.raises(UserError, match=why.replace("[", r"\[")):
        adopt(given)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node7", "node7"),
        ("a,b", "a"),
        ("node[001-004,9]", "node001"),
        ("n[5]-ib,other[1-2]", "n5-ib"),
        ("gpu-a-[12,14-15].cluster.local", "gpu-a-12.cluster.local"),
    ],
)
def test_the_first_of_slurms_hosts(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


def test_ranks_wait_for_one_that_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own limit is ten minutes or thirty, and a model's quality alone can take longer."""
    asked: list[Any] = []
    monkeypatch.setattr(processes.dist, "is_initialized", lambda: False)
    monkeypatch.setattr(processes.dist, "init_process_group", lambda backend, **given: asked.append(given))
    monkeypatch.setattr(processes.dist, "new_group", lambda **given: asked.append(given) or "meetings")
    monkeypatch.setattr(processes, "_meetings", [])
    monkeypatch.setattr(processes, "is_alone", lambda: False)
    monkeypatch.setattr(processes.dist, "broadcast", lambda flag, src, group: asked.append(group))
    monkeypatch.setattr(processes.atexit, "register", lambda leave: None)
    for name, value in (("RANK", "1"), ("MASTER_ADDR", "node1")):
        monkeypatch.setenv(name, value)
    processes.start_distributed()
    assert processes.from_first_rank(True)
    assert asked == [{}, {"backend": "gloo", "timeout": processes.WAIT}, "meetings"], "training keeps the library's limit"
    assert processes.WAIT.days >= 1
