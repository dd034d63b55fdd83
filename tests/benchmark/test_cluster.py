"""Stages on a real Ray cluster of two nodes on this machine: with a worker and a node killed in the middle, the records of one process.

Ray is an extra; where it is not installed, only what needs none of it is tested.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.progress import silent
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.running.cluster import Cluster, address_of, joined
from palimpsest.benchmark.running.moving import bring_in
from palimpsest.benchmark.running.needs import below, needs
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.reports import Board, Line
from palimpsest.benchmark.running.store import Stage, Store
from palimpsest.benchmark.running.task import LOCAL_STORE, home_of, job_of, make, packed
from palimpsest.benchmark.running.tokens import token_of
from palimpsest.benchmark.suites.config import QualityConfig, Suite
from tests.command import Command
from tests.micro import micro_suite, write_corpus

with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture(scope="module")
def small(tiny: Subject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    folder = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALIMPSEST_CACHE", str(folder / "cache"))
        yield replace(
            micro_suite(tiny.folder, write_corpus(folder)), methods={"none": {}, "gradient_ascent": {"epochs": 2}},
            attacks={"prefix": {}, "quantise": {"variants": ["int4"]}}, reasked={"prefix": {}}, subset=1,
            quality=QualityConfig(("palimpsest_bits_per_byte",), documents=4),
        )  # fmt: skip


class Watched(Store):
    """Notes which stages are read while one is made."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.read: dict[str, set[str]] = {}
        self._now: list[str] = []

    def ensure(self, stage: Stage, wait: float = 0) -> Path:
        if self._now:
            self.read[self._now[-1]].add(stage.key)
        self.read.setdefault(stage.key, set())
        self._now.append(stage.key)
        try:
            return super().ensure(stage, wait)
        finally:
            self._now.pop()


@pytest.fixture(scope="module")
def alone(small: Suite, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The suite, run in this process."""
    run = Run(small, Watched(tmp_path_factory.mktemp("alone")))
    run.execute()
    return run


def files(store: Store) -> dict[str, dict[str, str]]:
    """Stage -> the hashes of its files."""
    return {f"{kind}/{key}": manifest["files"] for kind, key, manifest, _ in store.entries()}


def test_a_stage_reads_nothing_but_what_it_is_said_to_need(alone: Run) -> None:
    assert isinstance(alone.store, Watched)
    needed = needs(alone.plan)
    for stage in alone.plan:
        assert alone.store.read[stage.key] <= below(stage.key, needed) | {stage.key}, stage.label
    order = [s.key for s in alone.plan]
    assert all(order.index(other) < order.index(key) for key in order for other in needed[key]), "a plan is in an order that can be made"
    assert not needed[alone.held(0).key]
    assert alone.held(0).key in needed[alone.model("gradient_ascent", 0).key]


def test_a_stage_is_made_by_two_ranks_on_one_machine(small: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, told = Run(small, Store(tmp_path)), []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with token_of(run.store) as token:
        outcome = make(job_of(run, token), run.held(0).key, 2, lambda *line: told.append(line), "here", None)
    assert (outcome.error, outcome.fault, outcome.archive) == ("", "", None)
    assert run.store.done(run.held(0))
    assert any(what.startswith("inject") for what, _, _ in told), "the first rank says how far it is"


@pytest.mark.parametrize(("on", "why"), [("cpu", "its code, model or texts differ"), ("cuda", "it computes on cpu, the command on cuda")])
def test_a_worker_that_plans_something_else_makes_nothing(small: Suite, tmp_path: Path, on: str, why: str) -> None:
    run = Run(small, Store(tmp_path))
    with token_of(run.store) as token:
        outcome = make(replace(job_of(run, token), device=on), "0" * 16, 1, silent, "here", None)
    assert why in outcome.error
    assert not files(run.store)


def test_a_worker_that_sees_no_store_and_is_sent_nothing_says_so(small: Suite, tmp_path: Path) -> None:
    run = Run(small, Store(tmp_path))
    assert make(job_of(run, "no such token"), run.held(0).key, 1, silent, "here", None).unseen


def test_a_worker_with_a_store_of_its_own_takes_what_a_stage_rests_on_and_gives_the_stage_back(
    small: Suite, alone: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOCAL_STORE, str(tmp_path / "own"))
    stage = alone.attacking.checks(alone.model("gradient_ascent", 0))
    under = [s for s in alone.plan if s.key in below(stage.key, needs(alone.plan))]
    sent = [packed(alone.store, s) for s in under]
    asking = Run(small, Store(tmp_path / "asking"))
    outcome = make(job_of(asking, "seen by nobody"), stage.key, 1, silent, "here", sent)
    assert (outcome.error, outcome.fault) == ("", "")
    (tmp_path / "stage.tar").write_bytes(outcome.archive or b"")
    bring_in(asking.store, tmp_path / "stage.tar", "", silent)
    name = f"checks/{stage.key}"
    assert files(asking.store) == {name: files(alone.store)[name]}
    assert set(files(Store(tmp_path / "own" / home_of(asking.store)))) == {name, *(f"{s.kind}/{s.key}" for s in under)}


def test_the_line_of_a_worker_that_was_lost_goes_when_another_has_its_stage() -> None:
    board = Board()
    board.tell("a", "held", ("inject", 1, 2))
    board.tell("b", "twin", ("twin", 1, 2))
    board.tell("c", "held", ("inject", 0, 2))
    assert board.read() == {"b": ("twin", 1, 2), "c": ("inject", 0, 2)}
    board.tell("b", "twin", None)
    assert list(board.read()) == ["c"]


# ---- on Ray


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes of one core each."""
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False})
    try:
        yield nodes
    finally:
        nodes.shutdown()


@with_ray
def test_a_worker_is_killed_in_the_middle_of_a_training_and_the_records_are_those_of_one_process(
    small: Suite, cluster: Any, tmp_path: Path
) -> None:
    cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    longer = replace(small, injection=replace(small.injection, occurrences=(80,)))  # seconds, in which its steps can be seen
    run, workers, killed = Run(longer, Store(tmp_path / "store")), set(), []

    def show(lines: Mapping[str, Line]) -> None:
        for worker, (what, done, of) in lines.items():
            if not killed and what.startswith("inject") and 0 < done < of:
                os.kill(int(re.findall(r"process (\d+)$", worker)[0]), signal.SIGKILL)
                killed.append(worker)
                assert not run.store.done(run.held(0)), "in the middle"

    finished: list[str] = []

    def note(stage: Stage, worker: str) -> None:
        finished.append(stage.key)
        workers.add(worker)

    Cluster(run, finished=note, show=show).execute(cluster.address)
    assert killed
    assert sorted(finished) == sorted(s.key for s in run.plan), "each once"
    assert len(workers - set(killed)) >= 2, "both nodes worked"
    alone = Run(longer, Store(tmp_path / "alone"))
    alone.execute()
    assert files(run.store) == files(alone.store)


@with_ray
def test_what_has_no_room_is_refused_and_a_node_with_a_store_of_its_own_sends_what_it_makes_until_it_is_lost(
    small: Suite, alone: Run, cluster: Any, tmp_path: Path
) -> None:
    """The head sees the run's store, the other node does not; it is taken away while it makes its second stage."""
    with pytest.raises(UserError, match=r"needs 7 cores and .* GB of memory, and no machine of the cluster has that"):
        Cluster(Run(small, Store(tmp_path / "store")), ranks=7).execute(cluster.address)
    node = cluster.add_node(num_cpus=1, object_store_memory=80 << 20, env_vars={LOCAL_STORE: str(tmp_path / "own")})
    run = Run(small, Store(tmp_path / "store"))
    own = Store(tmp_path / "own" / home_of(run.store))
    removed: list[int] = []

    def note(stage: Stage, worker: str) -> None:
        if not removed and own.done(stage):
            assert run.store.done(stage), "it was brought in"
            removed.append(len(files(own)))
            cluster.remove_node(node, allow_graceful=False)

    Cluster(run, finished=note).execute(cluster.address)
    assert removed
    assert files(run.store) == files(alone.store)
    assert files(own).items() <= files(alone.store).items()


# ---- without Ray


def test_without_ray_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=re.escape("pip install 'palimpsest-bench[ray]'")), joined(""):
        pass


@pytest.mark.parametrize(("on", "address"), [("ray", ""), ("ray:10.0.0.1:6379", "10.0.0.1:6379"), ("ray:auto", "auto")])
def test_what_stands_after_the_engine_is_its_address(on: str, address: str) -> None:
    assert address_of(on) == address


def test_another_engine_is_refused_and_ranks_without_one(palimpsest: Command) -> None:
    assert "expected ray, or ray:ADDRESS" in palimpsest("run", "suite=smoke", "--on", "dask")[2]
    assert "--ranks goes with --on ray" in palimpsest("run", "suite=smoke", "--ranks", "2")[2]
