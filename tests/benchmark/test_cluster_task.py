"""A task of a cluster, apart from what it computes: the store that it keeps, what its ranks say, and what a lost process still holds."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.progress import silent
from palimpsest.benchmark.running import task
from palimpsest.benchmark.running.store import Stage, Store
from palimpsest.benchmark.running.task import LOCAL_STORE, Job, home_of, make, packed
from tests.benchmark.stages import stage


def held(text: str) -> Stage:
    """A stage whose bytes depend on the machine, and whose key does not."""
    return stage(lambda folder: {"of": (folder / "weights").write_text(text)}, label="held", name="held")


READER = replace(stage(label="reader", of=held("").key), parallel=True)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the stages that workers plan."""

    def set_to(*plan: Stage) -> None:
        monkeypatch.setattr(task, "bound", lambda job, root: SimpleNamespace(plan=plan, store=Store(Path(root)), progress=None))

    return set_to


def job(store: Store, token: str = "seen by nobody") -> Job:
    return Job({}, str(store.root), token, "", "fp32", "cpu", 1, home_of(store))


def seen(store: Store) -> Job:
    """The job of workers that see the store."""
    found = job(store, "token")
    (store.root / task.TOKENS).mkdir(exist_ok=True)
    (store.root / task.TOKENS / "token").touch()
    return found


def content(folder: Path) -> str:
    return (folder / "weights").read_text()


# ---- a store of the worker's own


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(LOCAL_STORE, str(tmp_path / "own"))
    return tmp_path / "own"


def test_a_worker_takes_what_the_runs_own_store_holds_instead_of_what_it_made_itself(
    store: Store, own: Path, plans: Callable[..., None]
) -> None:
    """It made `held`, its answer was lost, another worker made it again with other bytes."""
    plans(mine := held("made here"), READER)
    first = make(job(store), mine.key, 1, silent, "here", [])
    assert (first.error, first.fault) == ("", "")
    theirs = held("made elsewhere")
    store.ensure(theirs)
    for _ in range(2):
        outcome = make(job(store), READER.key, 1, silent, "here", [packed(store, theirs)])
        assert (outcome.error, outcome.fault) == ("", "")
        assert content(Store(own / home_of(store)).folder(theirs)) == "made elsewhere"


def test_a_worker_keeps_stages_of_two_stores_apart(store: Store, own: Path, plans: Callable[..., None], tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    assert home_of(store) == home_of(store) != home_of(other)
    for where, text in ((store, "one"), (other, "two")):
        plans(it := held(text))
        assert not make(job(where), it.key, 1, silent, "here", []).error
    assert sorted(map(content, own.glob("*/held/*[!.lock]"))) == ["one", "two"]


def test_what_a_worker_made_of_another_stage_than_the_runs_own_is_not_sent(store: Store, own: Path, plans: Callable[..., None]) -> None:
    """In another run's store; here the same stage has other bytes."""
    reader = stage(lambda folder: {"of": (folder / "weights").write_text(read[0])}, label="reader", of=held("").key)
    read = ["of one"]
    plans(one := held("one"), reader)
    earlier = Store(own.parent / "earlier")
    earlier.ensure(one)
    make(job(earlier), reader.key, 1, silent, "here", [packed(earlier, one)])
    read[0] = "of two"
    store.ensure(two := held("two"))
    assert make(job(store), reader.key, 1, silent, "here", [packed(store, two)]).archive
    assert content(Store(own / home_of(store)).folder(reader)) == "of two"


def test_what_killed_workers_were_receiving_goes(store: Store, own: Path, plans: Callable[..., None]) -> None:
    plans(it := held("one"))
    (left := own / home_of(store) / ".received-killed").mkdir(parents=True)
    (left / "stage.tar").write_text("half a model")
    assert not make(job(store), it.key, 1, silent, "here", []).error
    assert not left.exists()


def test_a_worker_waits_for_one_that_was_given_up_and_still_makes_what_is_sent(store: Store, own: Path, plans: Callable[..., None]) -> None:
    plans(it := held("one"), READER)
    store.ensure(it)
    local = Store(own / home_of(store)).folder(it)
    with busy(local):
        outcome = make(job(store), READER.key, 1, silent, "here", [packed(store, it)])
    assert (outcome.error, outcome.fault) == ("", "")
    assert content(local) == "one"


# ---- several ranks


class busy:  # noqa: N801
    """Another process holds a stage's lock, and lets it go a second later."""

    def __init__(self, folder: Path, then: Callable[[], Any] = lambda: None) -> None:
        self.folder, self.then, self.held = folder, then, threading.Event()
        self.thread = threading.Thread(target=self._hold)

    def _hold(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.folder}.lock"):
            self.held.set()
            threading.Event().wait(1)
            self.then()

    def __enter__(self) -> None:
        self.thread.start()
        self.held.wait()

    def __exit__(self, *_: object) -> None:
        self.thread.join()


def test_ranks_begin_when_the_process_that_was_lost_has_let_go(store: Store, plans: Callable[..., None], monkeypatch: Any) -> None:
    plans(it := replace(held("one"), parallel=True))
    began: list[bool] = []

    def ranks(*_: Any) -> None:
        with FileLock(f"{store.folder(it)}.lock", timeout=0):
            began.append(True)

    monkeypatch.setattr(task, "_on_ranks", ranks)
    said: list[str] = []
    with busy(store.folder(it)):
        outcome = make(seen(store), it.key, 2, lambda what, *_: said.append(what), "here", None)
    assert (outcome.error, outcome.fault, began) == ("", "", [True])
    assert said == [f"waiting for another process that makes it ({store.folder(it)}.lock)"]


def test_no_ranks_begin_where_the_process_that_was_thought_lost_has_finished(
    store: Store, plans: Callable[..., None], monkeypatch: Any, tmp_path: Path
) -> None:
    plans(it := replace(held("one"), parallel=True))
    (made := Store(tmp_path / "made")).ensure(it)
    monkeypatch.setattr(task, "_on_ranks", lambda *_: pytest.fail("it is done"))
    with busy(store.folder(it), lambda: shutil.copytree(made.folder(it), store.folder(it))):
        outcome = make(seen(store), it.key, 2, silent, "here", None)
    assert (outcome.error, outcome.fault) == ("", "")


STANDIN = """#!{python} -S
import json, os, sys, time
from pathlib import Path
told, rank = Path(json.loads(sys.stdin.readline()).get("told", "")), os.environ["RANK"]
{does}
"""


@pytest.fixture
def rank_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Sets what two processes do that stand in for ranks; they know their `rank` and the folder `told`."""

    def set_to(does: str) -> None:
        (file := tmp_path / "rank").write_text(STANDIN.format(python=sys.executable, does=does))
        file.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(file))

    return set_to


def test_an_exception_of_a_rank_is_told_with_all_of_its_traceback(store: Store, rank_of: Callable[[str], None]) -> None:
    rank_of("if rank == '1': sys.exit('Traceback\\n  in deep\\nRuntimeError: CUDA out of memory')\ntime.sleep(60)")
    with pytest.raises(RuntimeError, match=r"^rank 1 of 2 ended with 1:\nTraceback\n  in deep\nRuntimeError: CUDA out of memory$"):
        task._on_ranks(job(store), job(store).store, "0" * 16, 2, silent)


def test_an_error_of_a_rank_for_the_user_is_told_whatever_the_others_say(store: Store, rank_of: Callable[[str], None]) -> None:
    rank_of(
        "mine = told / '1.told'\n"
        "if rank == '1': mine.write_text('no such file\\nin the suite'); sys.exit(1)\n"
        "while not mine.exists(): time.sleep(0.01)\n"
        "sys.exit('RuntimeError: Connection closed by peer')"
    )
    with pytest.raises(UserError, match=r"^no such file\nin the suite$"):
        task._on_ranks(job(store), job(store).store, "0" * 16, 2, silent)


@pytest.mark.parametrize(("error", "code", "told"), [(UserError("two\nlines"), 1, ["two\nlines"]), (RuntimeError("deep"), 2, [])])
def test_a_rank_ends_at_once_and_tells_errors_for_the_user_apart(
    error: Exception, code: int, told: list[str], store: Store, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """At once: the other ranks wait for it, and would also while its process group is dissolved."""

    def fail() -> None:
        raise error

    given = {"job": asdict(job(store)), "store": str(store.root), "key": "0" * 16, "told": str(tmp_path)}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(given) + "\n"))
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(task, "threading", SimpleNamespace(Thread=lambda **_: SimpleNamespace(start=lambda: None)))
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(task, "start_distributed", fail)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as end:
        task.as_rank()
    assert end.value.code == code
    assert [f.read_text() for f in tmp_path.glob("1.*")] == told
    assert ("RuntimeError: deep" in capsys.readouterr().err) == (not told)
