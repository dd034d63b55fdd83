"""What goes wrong with one stage of a cluster's run: the others are made, then the error is told. A stand-in does what Ray would."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.running import cluster, task
from palimpsest.benchmark.running.cluster import Cluster, Demand, engine, joined
from palimpsest.benchmark.running.store import Stage, Store
from palimpsest.benchmark.running.task import Outcome, packed
from tests.benchmark.stages import stage

Does = Callable[[], Outcome]


class RayError(Exception):
    """As Ray's own."""


class RayTaskError(RayError):
    """As Ray's own."""


class WorkerCrashedError(RayError):
    """As Ray's own."""


class RuntimeEnvSetupError(RayError):
    """As Ray's own."""


class StandIn:
    """As much of Ray as a run asks for. What was submitted is done when it is waited for, the oldest first."""

    exceptions = SimpleNamespace(
        RayError=RayError, RayTaskError=RayTaskError, WorkerCrashedError=WorkerCrashedError,
        NodeDiedError=type("NodeDiedError", (RayError,), {}), LocalRayletDiedError=type("LocalRayletDiedError", (RayError,), {}),
    )  # fmt: skip

    def __init__(self, does: dict[str, Does]) -> None:
        self.does = does

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 8.0, "memory": 1e12}}]

    def remote(self, **_: Any) -> Any:
        return lambda _: SimpleNamespace(options=lambda name: SimpleNamespace(remote=lambda job, key, *rest: key))

    def put(self, value: Any) -> Any:
        return value

    def wait(self, references: list[str], num_returns: int = 1, timeout: float = 0) -> tuple[list[str], list[str]]:
        assert references, "Ray refuses to wait for nothing"
        return references[:1], references[1:]

    def get(self, reference: str) -> Any:
        return self.does[reference]()


A, B = stage(label="a", name="a"), stage(label="b", name="b")
READS_A, READS_B = stage(label="reads a", of=A.key), stage(label="reads b", of=B.key)
PLAN = [A, B, READS_A, READS_B]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def execute(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Runs the plan; `wrong` is what the worker of a stage does instead of making it. Returns the labels of stages that were finished."""

    def run(copied: bool = False, **wrong: Does) -> list[str]:
        finished: list[str] = []

        def honest(it: Stage) -> Does:
            return lambda: Outcome("worker", error="" if store.ensure(it) else "never")

        ray = StandIn({"board": dict, **{s.key: wrong.get(s.label.replace(" ", "_")) or honest(s) for s in PLAN}})  # type: ignore[dict-item]

        @contextmanager
        def reached(address: str) -> Iterator[Any]:
            yield ray

        board = SimpleNamespace(read=SimpleNamespace(remote=lambda: "board"))
        monkeypatch.setattr(cluster, "joined", reached)
        monkeypatch.setattr(cluster, "job_of", lambda *_: "job")
        monkeypatch.setattr(cluster, "demand", lambda *_: Demand(0, 1, 0))
        monkeypatch.setattr(Cluster, "_board", lambda *_: board)
        monkeypatch.setattr(task, "LATE", 0.0)
        bound: Any = SimpleNamespace(plan=PLAN, store=store, validate=lambda: None)
        run.finished = finished  # type: ignore[attr-defined]
        Cluster(bound, finished=lambda s, worker: finished.append(s.label), copied=copied).execute()
        return finished

    return run


def raising(error: Exception) -> Does:
    def fail() -> Outcome:
        raise error

    return fail


OUTCOMES: dict[str, tuple[Does, type[Exception], str]] = {
    "an exception of the stage": (
        lambda: Outcome("gpu 3", fault="Traceback\n  in deep\ntorch.OutOfMemoryError: CUDA out of memory"),
        RuntimeError,
        r"1 of 4 stages failed; what is finished is kept. a failed on gpu 3:\nTraceback\n  in deep\ntorch.OutOfMemoryError",
    ),
    "an error for the user": (lambda: Outcome("gpu 3", error="no such file"), UserError, r"^1 of 4 stages failed; .* a: no such file$"),
    "an archive that is none": (lambda: Outcome("gpu 3", archive=b"none"), UserError, "a: .* is no archive of stages"),
    "a stage that is not seen": (lambda: Outcome("gpu 3"), UserError, "a: a is finished, and is not seen in"),
    "a worker that was lost": (raising(WorkerCrashedError()), UserError, r"a: its worker was lost 4 times \(WorkerCrashedError\)"),
    "an exception before the stage": (
        raising(RayTaskError("Traceback\n  in pickle\nImportError: no module")),
        RuntimeError,
        r"a failed on a worker:\nTraceback\n  in pickle\nImportError: no module",
    ),
    "a worker that cannot begin": (
        raising(RuntimeEnvSetupError("no space\nfor it")),
        UserError,
        r"a: Ray could not make it \(RuntimeEnvSetupError no space\)",
    ),
    "an answer that cannot be read": (raising(ValueError("bad pickle")), RuntimeError, "ValueError: bad pickle"),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_what_is_wrong_with_one_stage_stops_only_those_that_read_it(name: str, store: Store, execute: Any) -> None:
    does, kind, why = OUTCOMES[name]
    with pytest.raises(Exception, match=re.compile(why, re.S)) as error:
        execute(a=does)
    assert type(error.value) is kind
    assert execute.finished == ["b", "reads b"]
    assert not store.done(READS_A)


def test_a_disk_that_is_full_where_the_command_was_given_is_told_after_the_others(
    execute: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Store(tmp_path / "elsewhere")
    elsewhere.ensure(A)
    sent = packed(elsewhere, A)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"a: \[Errno 28\] No space left on device"):
        execute(a=lambda: Outcome("gpu 3", archive=sent))
    assert execute.finished == ["b", "reads b"]


def test_two_failures_are_counted_and_a_traceback_comes_first(execute: Any) -> None:
    with pytest.raises(RuntimeError, match=r"2 of 4 stages failed; what is finished is kept. b failed on gpu 3:\nTraceback.*\na: no file"):
        execute(a=lambda: Outcome("gpu 3", error="no file"), b=lambda: Outcome("gpu 3", fault="Traceback"))


def test_every_error_of_the_users_is_told(execute: Any) -> None:
    with pytest.raises(UserError, match=r"2 of 4 stages failed; what is finished is kept. a: no file\nb: no key$"):
        execute(a=lambda: Outcome("gpu 3", error="no file"), b=lambda: Outcome("gpu 3", error="no key"))


def test_a_stage_that_cannot_be_sent_stops_only_those_that_read_it(store: Store, execute: Any) -> None:
    file = store.ensure(A) / "deep" / "weights"
    file.chmod(0o644)
    file.write_text("damaged")
    with pytest.raises(UserError, match=r"1 of 3 stages failed; .* reads a: .* is damaged"):
        execute(copied=True)
    assert execute.finished == ["b", "reads b"]


def test_where_nothing_is_left_to_wait_for_the_error_is_told(store: Store, execute: Any) -> None:
    for it in (A, B, READS_B):
        store.ensure(it)
    (store.folder(A) / "deep" / "more").write_text("damaged")
    with pytest.raises(UserError, match=r"1 of 1 stages failed; .* reads a: .* is damaged"):
        execute(copied=True)


def test_what_the_store_has_meanwhile_is_not_taken_again(store: Store, execute: Any, tmp_path: Path) -> None:
    """Another command has made it there, with other content perhaps."""

    def late() -> Outcome:
        store.ensure(A)
        return Outcome("gpu 3", archive=b"other content")

    assert execute(a=late) == ["a", "b", "reads a", "reads b"]


def test_ray_that_is_installed_and_broken_is_not_called_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('libstdc++ is too old')")
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"cannot be imported \(libstdc\+\+ is too old\)"):
        engine("")
    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="not installed here"):
        engine("")


def test_an_address_at_which_nobody_listens_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    init = partial(pytest.fail, "Ray was asked")
    monkeypatch.setattr(cluster, "find_spec", bool)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "127.0.0.1:99999"):
        with pytest.raises(UserError, match=f"^No Ray cluster was reached at {address}: "), joined(address):
            pass


@pytest.mark.parametrize(("says", "why"), [("", "ConnectionError"), ("nobody\nis there", "nobody")])
def test_a_cluster_that_is_not_reached_is_told_whatever_ray_says(says: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*_: Any, **__: Any) -> None:
        raise ConnectionError(says)

    monkeypatch.setattr(cluster, "find_spec", bool)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(UserError, match=f"No Ray cluster was reached at there: {why}$"), joined("there"):
        pass
