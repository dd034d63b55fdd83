"""The stages of a run as tasks of a Ray cluster. The machine on which the command is given decides what is ready; Ray decides where.

Ray moves objects as pickles and runs the code of whoever joins: a cluster is for people who trust each other.
"""

from __future__ import annotations

import os
import re
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import torch

from ..common.errors import UserError, first_line
from ..common.processes import device
from .memory import GB, host_memory
from .moving import bring_in
from .needs import below, needs
from .plan import Run
from .reports import Board, Line
from .store import Stage
from .task import Job, Outcome, job_of, make, named, packed, require_seen, without_ranks
from .tokens import token_of

INSTALL = "pip install 'palimpsest-bench[ray]', or in a checkout pip install -e '.[ray]'."
MISSING = f"--on ray needs Ray, an extra that is not installed here. Install it on every machine: {INSTALL}"
LOST = 3  # times that a stage is given to another worker after the loss of one
POLL = 0.5  # seconds
OFTEN = 1.0  # seconds between two reports of a worker
HERE, SOME = "the machine of the command", "a worker"  # where it went wrong, if no worker says its name
SENT = ("PALIMPSEST_CACHE", "PALIMPSEST_TRACEBACK", "HF_HOME", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM", "CUBLAS_WORKSPACE_CONFIG")


@dataclass(frozen=True)
class Demand:
    """What must be free on a machine for a stage."""

    gpus: int
    cpus: int
    memory: int  # bytes

    def __str__(self) -> str:
        return f"{f'{self.gpus} GPUs, ' if self.gpus else ''}{self.cpus} cores and {self.memory / GB:.1f} GB of memory"


def demand(run: Run, stage: Stage, ranks: int) -> Demand:
    """A GPU for each rank where the run computes on GPUs; else as many cores as this process has threads, so that results are its own."""
    mine = ranks if stage.parallel else 1
    memory = int(host_memory(run, stage.kind, mine))
    return Demand(mine, mine, memory) if device().type == "cuda" else Demand(0, mine * torch.get_num_threads(), memory)


def task(job: Job, key: str, ranks: int, board: Any, copied: bool, *archives: bytes) -> Outcome:
    """What Ray runs: `make`, with reports to the board."""
    import ray  # pyright: ignore[reportMissingImports]

    without_ranks()
    worker = named([str(g) for g in ray.get_gpu_ids()])
    last: tuple[float, str] = (0.0, "")

    def tell(what: str, done: int, of: int) -> None:
        nonlocal last
        name = what.split("  ")[0]  # without the terms of a loss
        if monotonic() - last[0] >= OFTEN or name != last[1]:
            last = monotonic(), name
            board.tell.remote(worker, key, (what, done, of))

    tell("starting", 0, 1)
    try:
        return make(job, key, ranks, tell, worker, archives if copied else None)
    finally:
        board.tell.remote(worker, key, None)


@dataclass
class Cluster:
    """A run whose stages are made elsewhere. `finished` is told of a stage and its worker; `show` of what all workers do."""

    run: Run
    ranks: int = 1
    finished: Callable[[Stage, str], Any] = lambda stage, worker: None
    show: Callable[[Mapping[str, Line]], Any] = lambda lines: None
    copied: bool = False  # whether some worker does not see the store
    _tasks: dict[Demand, Any] = field(default_factory=dict, repr=False)  # as Ray knows them
    _archives: dict[str, Any] = field(default_factory=dict, repr=False)  # key -> reference

    def execute(self, address: str = "") -> None:
        """Make what is not done yet. A stage that fails takes with it those that read it; the others are made before the error is told."""
        self.run.validate()
        todo = {s.key: s for s in self.run.plan if not self.run.store.done(s)}
        if todo:
            with joined(address) as ray, token_of(self.run.store) as token:
                failed = self._all(ray, job_of(self.run, token), todo)
            if failed:
                raise _told(failed, len(todo))

    def _all(self, ray: Any, job: Job, todo: dict[str, Stage]) -> list[tuple[Stage, Outcome]]:
        """Make all; what of it failed, and how."""
        needed = needs(self.run.plan)
        waiting = {key: set(needed[key] & todo.keys()) for key in todo}
        board = self._board(ray)
        said = board.read.remote()
        going: dict[Any, Stage] = {}
        failed: list[tuple[Stage, Outcome]] = []
        alive = [n["Resources"] for n in ray.nodes() if n["Alive"]]
        largest = [(int(has.get("GPU", 0)), has.get("CPU", 0.0), has.get("memory", 0.0)) for has in alive]
        for stage in todo.values():
            self._require_room(stage, largest)
        while going or any(not rest for rest in waiting.values()):
            for key in [k for k, rest in waiting.items() if not rest]:
                del waiting[key]
                try:
                    going[self._submit(ray, job, todo[key], needed, board)] = todo[key]
                except Exception as error:  # the stages that it rests on cannot be sent
                    failed.append((todo[key], _failure(HERE, error)))
            done = ray.wait(list(going), num_returns=1, timeout=POLL)[0] if going else []
            said = self._shown(ray, board, said)
            for reference in done:
                stage = going.pop(reference)
                outcome = self._taken(stage, self._outcome(ray, reference))
                if outcome.unseen:
                    self.copied = True
                    waiting[stage.key] = set()
                elif outcome.error or outcome.fault:
                    failed.append((stage, outcome))
                else:
                    self.finished(stage, outcome.worker)
                    for rest in waiting.values():
                        rest.discard(stage.key)
        return failed

    def _shown(self, ray: Any, board: Any, said: Any) -> Any:
        """Show what the board answered, if it did, and ask again; nothing waits for it."""
        if not ray.wait([said], timeout=0)[0]:
            return said
        with suppress(ray.exceptions.RayError):
            self.show(ray.get(said))
        return board.read.remote()

    def _submit(self, ray: Any, job: Job, stage: Stage, needed: dict[str, frozenset[str]], board: Any) -> Any:
        want = demand(self.run, stage, self.ranks)
        if want not in self._tasks:  # declared with its GPUs, so that Ray ends the process afterwards: it could not take other ones
            self._tasks[want] = ray.remote(num_gpus=want.gpus, num_cpus=want.cpus, memory=want.memory, max_retries=LOST)(task)
        sent = [self._archive(ray, key) for key in sorted(below(stage.key, needed))] if self.copied else []
        return self._tasks[want].options(name=stage.label).remote(job, stage.key, self.ranks, board, self.copied, *sent)

    def _archive(self, ray: Any, key: str) -> Any:
        """A finished stage in Ray's own store, put there once."""
        if key not in self._archives:
            stage = next(s for s in self.run.plan if s.key == key)
            self._archives[key] = ray.put(packed(self.run.store, stage))
        return self._archives[key]

    def _outcome(self, ray: Any, reference: Any) -> Outcome:
        """What became of a task, also where Ray itself has to tell."""
        known = ray.exceptions
        try:
            return ray.get(reference)
        except known.RayTaskError as error:  # before or after `make`, which lets no exception out
            return Outcome(SOME, fault=str(error))
        except (known.WorkerCrashedError, known.NodeDiedError, known.LocalRayletDiedError) as error:
            return Outcome(SOME, error=f"its worker was lost {LOST + 1} times ({first_line(error)})")
        except known.RayError as error:
            return Outcome(SOME, error=f"Ray could not make it ({first_line(error)})")
        except Exception as error:
            return _failure(HERE, error)

    def _taken(self, stage: Stage, outcome: Outcome) -> Outcome:
        """The outcome, and the stage in the run's store if it was made; else what went wrong there."""
        if outcome.unseen or outcome.error or outcome.fault:
            return outcome
        try:
            self._take(stage, outcome)
        except Exception as error:
            return _failure(HERE, error)
        return outcome

    def _take(self, stage: Stage, outcome: Outcome) -> None:
        """Bring in what a worker with a store of its own has made; see what another has made in this one."""
        if outcome.archive is not None and not self.run.store.done(stage):  # else another command has made it: that one counts
            with TemporaryDirectory(dir=self.run.store.root, prefix=".received-") as folder:
                (Path(folder) / "stage.tar").write_bytes(outcome.archive)
                bring_in(self.run.store, Path(folder) / "stage.tar", "", lambda *_: None)
        require_seen(self.run.store, stage)
        self.run.store.manifest(stage)  # as it was written

    def _board(self, ray: Any) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # pyright: ignore[reportMissingImports]

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        return ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()

    def _require_room(self, stage: Stage, largest: list[tuple[int, float, float]]) -> None:
        want = demand(self.run, stage, self.ranks)
        if not any(want.gpus <= gpus and want.cpus <= cpus and want.memory <= memory for gpus, cpus, memory in largest):
            there = "; ".join(sorted({f"{g} GPUs, {c:g} cores, {m / GB:.1f} GB" for g, c, m in largest}))
            raise UserError(f"{stage.label} needs {want}, and no machine of the cluster has that (there: {there}).")


def _failure(where: str, error: Exception) -> Outcome:
    """An exception of this process as the outcome of a stage."""
    if isinstance(error, UserError):
        return Outcome(where, error=str(error))
    if isinstance(error, OSError):
        return Outcome(where, error=first_line(error))
    return Outcome(where, fault="".join(traceback.format_exception(error)))


def _told(failed: list[tuple[Stage, Outcome]], of: int) -> Exception:
    """One error for all that failed. Exceptions come with their tracebacks, and are none for the user to mend."""
    said = f"{len(failed)} of {of} stages failed; what is finished is kept. "
    faults = [f"{stage.label} failed on {outcome.worker}:\n{outcome.fault}" for stage, outcome in failed if outcome.fault]
    errors = [f"{stage.label}: {outcome.error}" for stage, outcome in failed if not outcome.fault]
    return RuntimeError(said + "\n".join([*faults, *errors])) if faults else UserError(said + "\n".join(errors))


@contextmanager
def joined(address: str) -> Iterator[Any]:
    """Ray, joined to the cluster at `address`, to the one that RAY_ADDRESS or this machine names, or started on this machine alone."""
    ray = engine(address)
    sent = {name: os.environ[name] for name in SENT if name in os.environ}
    began = not ray.is_initialized()
    if began:
        try:
            ray.init(address or None, runtime_env={"env_vars": sent} if sent else None, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"No Ray cluster was reached{f' at {address}' if address else ''}: {first_line(error)}") from None
    try:
        yield ray
    finally:
        if began:
            ray.shutdown()


def engine(address: str) -> Any:
    """Ray, if it is installed, and somebody listens at the address or Ray is to find one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not find_spec("ray"):
        raise UserError(MISSING)
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except Exception as error:  # whatever its own libraries raise
        raise UserError(f"Ray is installed here and cannot be imported ({first_line(error)}). Install it anew: {INSTALL}") from None
    if not ray.is_initialized():
        _require_there(address)
    return ray


def _require_there(address: str) -> None:
    """Refuse HOST:PORT where nobody listens: Ray itself would go on trying for minutes, without a word."""
    found = re.fullmatch(r"(?:ray://)?([\w.-]+):(\d{1,5})", address)
    if found:
        try:
            socket.create_connection((found[1], int(found[2])), timeout=5).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"No Ray cluster was reached at {address}: {first_line(error)}") from None


def address_of(on: str) -> str:
    """The address in `ray` or `ray:ADDRESS`; UserError for any other engine."""
    engine, _, address = on.partition(":")
    if engine != "ray":
        raise UserError(f"--on {on}: expected ray, or ray:ADDRESS, for example ray:10.0.0.1:6379.")
    return address
