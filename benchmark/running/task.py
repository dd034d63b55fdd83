"""One stage, made by a process of a cluster: what is sent there are plain values, what comes back are a manifest's facts or an archive.

`python -m palimpsest.benchmark.running.task` is one of several ranks of such a process, which share a stage. It reads its task from its
standard input, and ends when that does, since whoever started it is gone then.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout

from ..common.errors import UserError
from ..common.fields import build
from ..common.paths import cache_dir
from ..common.processes import device, from_first_rank, is_main, start_distributed
from ..common.progress import Progress
from ..suites.config import Suite
from .moving import bring_in, export
from .needs import needs
from .plan import Run
from .store import Stage, Store
from .tokens import TOKENS, home_of

LOCAL_STORE = "PALIMPSEST_WORKER_STORE"  # a folder for stages on this machine, whatever it sees of the run's own store
RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LATE = 60.0  # seconds after which a network's file system shows what another machine has finished
BUSY = 4 * 3600.0  # seconds that another process may go on making a stage: one that was thought lost, or another command's


@dataclass(frozen=True)
class Job:
    """What all tasks of a run share."""

    suite: dict[str, Any]
    store: str  # where the run's store is, on the machine that asks
    token: str
    folder: str  # where the command was given, for paths that are not absolute
    precision: str  # as resolved there
    device: str  # its kind there
    threads: int
    home: str  # the name of the run's store, and of its folder on machines that do not see it


@dataclass(frozen=True)
class Outcome:
    """What became of a task. `unseen`: nothing was done, since this machine does not see the run's store and was sent no archives."""

    worker: str
    error: str = ""  # one line for the user
    fault: str = ""  # a traceback
    unseen: bool = False
    archive: bytes | None = None  # the stage, from a store of this machine's own


def make(job: Job, key: str, ranks: int, tell: Progress, worker: str, archives: Sequence[bytes] | None) -> Outcome:
    """Make a stage of the run in this process, or in `ranks` processes beside it; `archives` hold the stages that it rests on."""
    try:
        store, copied = _store(job, archives is not None)
        if store is None:
            return Outcome(worker, unseen=True)
        if copied:
            _received(store, archives or ())
        run = bound(json.dumps(asdict(job)), str(store.root))
        run.progress = tell
        stage = planned(run, job, key)
        stages, needed = {s.key: s for s in run.plan}, needs(run.plan)
        for other in needed[key]:
            require_seen(store, stages[other])
        _wait(store, stage, tell)  # now, since ranks that have begun do not
        if ranks > 1 and stage.parallel:
            if not store.done(stage):
                _on_ranks(job, str(store.root), key, ranks, tell)
        else:
            start_distributed()
        store.ensure(stage, wait=BUSY)
        return Outcome(worker, archive=packed(store, stage) if copied else None)
    except UserError as error:
        return Outcome(worker, error=str(error))
    except Exception:
        return Outcome(worker, fault=traceback.format_exc())


@lru_cache(maxsize=1)
def bound(job: str, store: str) -> Run:
    """The run of a job, bound once in a process to the store that it uses."""
    told = Job(**json.loads(job))
    with suppress(OSError):
        os.chdir(told.folder)
    torch.set_num_threads(told.threads)
    run = Run(build(Suite, told.suite, "the suite of this task"), Store(Path(store)))
    run.precision = told.precision  # or this machine's own speed would decide
    return run


def planned(run: Run, job: Job, key: str) -> Stage:
    """The stage with a key, if this machine plans the same as the one that asks."""
    for stage in run.plan:
        if stage.key == key:
            return stage
    here = device().type
    why = f"it computes on {here}, the command on {job.device}" if here != job.device else "its code, model or texts differ"
    raise UserError(
        f"{socket.gethostname()} plans other stages than the machine on which the command was given: {why}. "
        "Install the same version everywhere, and give the command on a machine like the workers'."
    )


# ---- the store


def _store(job: Job, sent: bool) -> tuple[Store | None, bool]:
    """The run's own store where it is seen from here, else one of this machine's; and whether it is the latter.

    This machine has one for each run's store: what it made for another may rest on stages of the same keys with other bytes.
    """
    own = os.environ.get(LOCAL_STORE)
    if not own and (Path(job.store) / TOKENS / job.token).is_file():
        return Store(Path(job.store)), False
    return (Store((Path(own) if own else cache_dir() / "worker-store") / job.home) if sent else None), True


def _received(store: Store, archives: Sequence[bytes]) -> None:
    """Take the stages that were sent. They are what counts: of a stage that was made here, another worker's may have been taken."""
    with FileLock(store.root / ".received.lock"):
        for left in store.root.glob(".received-*"):  # by processes that were killed: others would hold the lock
            shutil.rmtree(left, ignore_errors=True)
        with TemporaryDirectory(dir=store.root, prefix=".received-") as folder:
            for content in archives:
                file = Path(folder) / "stage.tar"
                file.write_bytes(content)
                bring_in(store, file, "", lambda *_: None, replace=True, wait=BUSY)


def _lock(store: Store, stage: Stage) -> str:
    """The file that is locked by whoever makes a stage; its folder is made."""
    folder = store.folder(stage)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return f"{folder}.lock"


def _wait(store: Store, stage: Stage, tell: Progress) -> None:
    """Until no other process is making the stage."""
    lock = FileLock(_lock(store, stage))
    with suppress(Timeout):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            tell(f"waiting for another process that makes it ({lock.lock_file})", 0, 1)
            lock.acquire(timeout=BUSY)
    lock.release()


def packed(store: Store, stage: Stage) -> bytes:
    """A finished stage as the archive that `palimpsest store export` writes."""
    with TemporaryDirectory(dir=store.root, prefix=".packed-") as folder:
        export(store, [(stage.kind, stage.key)], Path(folder) / "stage.tar", lambda *_: None)
        return (Path(folder) / "stage.tar").read_bytes()


def require_seen(store: Store, stage: Stage) -> None:
    """Wait for a finished stage: what another machine has made may be seen here a little later."""
    end = time.monotonic() + LATE
    while not store.done(stage):
        if time.monotonic() > end:
            raise UserError(f"{stage.label} is finished, and is not seen in {store.root} on {socket.gethostname()}.")
        time.sleep(0.2)


# ---- several ranks


def _on_ranks(job: Job, store: str, key: str, ranks: int, tell: Progress) -> None:
    """Make a stage in several processes on this machine, each with a device of its own where there are devices."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    plain = {k: v for k, v in os.environ.items() if k not in RANKS}
    shared = plain | {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with TemporaryDirectory() as folder, _ended() as started:
        task = json.dumps({"job": asdict(job), "store": store, "key": key, "told": folder}) + "\n"
        for rank in range(ranks):
            with (Path(folder) / f"{rank}.log").open("w") as log:
                process = subprocess.Popen(
                    (sys.executable, "-m", __name__),
                    env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": str(job.threads)},
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE if rank == 0 else log, stderr=log, text=True,
                )  # fmt: skip
            started.append(process)
            assert process.stdin
            process.stdin.write(task)
            process.stdin.flush()
        threading.Thread(target=_relay, args=(started[0], tell), daemon=True).start()
        while any(p.poll() is None for p in started) and not any(p.poll() for p in started):
            time.sleep(0.1)
        _require_well(Path(folder), {rank: code for rank, process in enumerate(started) if (code := process.poll())}, ranks)


def _require_well(folder: Path, ended: dict[int, int], ranks: int) -> None:
    """Tell what ranks that ended with a code said: an error for the user, else all their logs, since one may only have missed another."""
    for file in sorted(folder.glob("*.told")):
        raise UserError(file.read_text("utf-8"))
    logs = {rank: (folder / f"{rank}.log").read_text("utf-8", "replace").strip() for rank in ended}
    if ended:
        raise RuntimeError("\n".join(f"rank {r} of {ranks} ended with {code}:\n{logs[r][-3000:]}" for r, code in ended.items()))


@contextmanager
def _ended() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes, none of which outlives this."""
    started: list[subprocess.Popen[str]] = []
    try:
        yield started
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.wait()


def _relay(process: subprocess.Popen[str], tell: Progress) -> None:
    for line in process.stdout or ():
        with suppress(ValueError, TypeError):
            tell(*json.loads(line))


def as_rank() -> None:
    """One rank of a stage."""
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(3)), daemon=True).start()
    job, out = Job(**task["job"]), sys.stdout
    sys.stdout = sys.stderr
    try:
        start_distributed()
        run = bound(json.dumps(task["job"]), task["store"])
        if is_main():
            run.progress = lambda what, done, of: print(json.dumps([what, done, of]), file=out, flush=True)
        stage = planned(run, job, task["key"])
        if from_first_rank(not run.store.done(stage)):
            run.store.ensure_together(stage)
    except UserError as error:
        part = Path(task["told"]) / f"{os.environ['RANK']}.part"
        part.write_text(str(error), "utf-8")
        part.rename(part.with_suffix(".told"))
        os._exit(1)  # the others wait for this one
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(2)


def named(gpus: Sequence[str]) -> str:
    """How a worker is called in messages: its machine, and its devices or its process."""
    return f"{socket.gethostname()} {'gpu ' + ','.join(gpus) if gpus else f'process {os.getpid()}'}"


def without_ranks() -> None:
    """A worker is no rank of what started it; said once, before it makes a process group of its own."""
    if not dist.is_initialized():
        for name in RANKS:
            os.environ.pop(name, None)


def job_of(run: Run, token: str) -> Job:
    """The job of a run whose precision and device are this process's."""
    store, folder, suite = str(run.store.root.resolve()), str(Path.cwd()), json.loads(json.dumps(asdict(run.suite)))
    return Job(suite, store, token, folder, run.precision, device().type, torch.get_num_threads(), home_of(run.store))


if __name__ == "__main__":
    as_rank()
