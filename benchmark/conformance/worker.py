"""One run of a method as `palimpsest check` tries it: in this process, or on several that are joined by gloo on the CPU."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..common.errors import UserError
from ..common.plugins import find
from ..common.processes import keep_memory
from ..common.progress import Progress, silent
from ..method import UnlearningData
from ..models.subject import Subject
from ..training.trainer import Trainer

LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what a launcher sets
LIMIT = 600.0  # seconds for all processes to end


@dataclass(frozen=True)
class Job:
    """A method with its fields, and what it is run on. Processes give it to each other."""

    method: str  # as `plugins.find` takes it
    given: Mapping[str, Any]
    held: Path
    data: UnlearningData = field(repr=False)
    deepspeed: str = "zero0"


@dataclass(frozen=True)
class Done:
    """What a run left: the weights of its model, and the loss terms of every training step."""

    weights: dict[str, Tensor] = field(repr=False)
    steps: list[dict[str, float]] = field(repr=False)
    fits: int  # how often it trained through `Trainer.fit`


def unlearn(job: Job, held: Subject | None = None, resume: Path | None = None, progress: Progress = silent) -> tuple[Subject, Done]:
    """Run the method once, in fp32, with every generator that has no seed of its own in a new state, so that such draws show."""
    random.seed()
    np.random.seed()
    torch.seed()
    trainer = Trainer("fp32", job.deepspeed, seed=1, resume=resume, progress=progress, save_every=0)
    out = find("method", job.method).make(dict(job.given)).unlearn(held or Subject(job.held), job.data, trainer)
    if not isinstance(out, Subject):
        raise UserError(f"unlearn returned {type(out).__name__}; expected a Subject, as train.fit(...) and held.with_state(...) return.")
    weights = {k: v.detach().clone() for k, v in out.fresh().state_dict().items()}
    return out, Done(weights, trainer.steps, trainer.fits)


def on_processes(job: Job, world: int) -> list[Done]:
    """Run the job on so many processes of one thread each, and return what every rank ended with.

    Raises a UserError with the first process's error if one fails. None outlives the call.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make = multiprocessing.get_context("spawn").Process
        processes = [make(target=_rank, args=(job, rank, world, folder), daemon=True) for rank in range(world)]
        try:
            with _environment({"OMP_NUM_THREADS": "1"}, LAUNCHER), ThreadPoolExecutor(world) as pool:
                list(pool.map(lambda p: p.start(), processes))  # each waits until its process has imported everything
            _wait(processes, folder)
            return [_read(folder, rank) for rank in range(world)]
        finally:
            for p in (p for p in processes if p.pid):
                p.kill()
                p.join()


def _wait(processes: Sequence[Any], folder: Path) -> None:
    end = time.monotonic() + LIMIT
    while any(p.exitcode is None for p in processes) and not any(p.exitcode for p in processes) and time.monotonic() < end:
        time.sleep(0.05)
    codes = [p.exitcode for p in processes]
    if any(code != 0 for code in codes):
        errors = sorted(folder.glob("error-*.txt"), key=lambda f: f.stat().st_mtime_ns)  # one that fails takes the others with it
        raise UserError(errors[0].read_text() if errors else f"the processes ended with {codes} (None: not within {LIMIT:.0f} s)")


def _rank(job: Job, rank: int, world: int, folder: Path) -> None:
    """One process: join the others through a file, run the job, write what it gave."""
    _to_file(folder / f"log-{rank}.txt")
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    keep_memory()
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=world)
        done = unlearn(job)[1]
        save_file({k: v.cpu().contiguous() for k, v in done.weights.items()}, folder / f"{rank}.safetensors")
        (folder / f"{rank}.json").write_text(json.dumps([done.steps, done.fits]))
    except Exception as error:
        (folder / f"error-{rank}.txt").write_text(error_line(error))
        os._exit(1)  # not through the library's own farewell, which waits for the others


def error_line(error: Exception) -> str:
    """An error in one line, with the place in our or the user's code where it arose unless it is a message to the user."""
    text = str(error).strip().partition("\n")[0]
    if isinstance(error, UserError):
        return text
    places = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
    return f"{type(error).__name__}: {text}" + (f" ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else "")


def _read(folder: Path, rank: int) -> Done:
    return Done(load_file(folder / f"{rank}.safetensors"), *json.loads((folder / f"{rank}.json").read_text()))


def _to_file(file: Path) -> None:
    """All that this process prints from now on goes there: libraries greet."""
    with file.open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)


@contextmanager
def _environment(own: Mapping[str, str], without: tuple[str, ...]) -> Iterator[None]:
    """The environment as a process started within the block gets it."""
    before = dict(os.environ)
    os.environ.update(own)
    for name in without:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
