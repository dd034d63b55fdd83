"""Makes a bundle's row again from the base. The author's code gets a process and a store of its own; all else is made by our code.

Only the weights that the author's process leaves are taken over. So what it could do to its own process (another reader, other answers)
changes no record: those are made here, afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..common.errors import UserError
from ..common.paths import cache_dir
from ..common.processes import device
from ..common.sources import NAME
from ..common.types import BASE, HELD, TWIN
from ..running.store import Stage, Store, Work
from ..suites.config import Suite
from ..suites.frozen import plain_config
from .bundle import LIMITS, METHOD, Bundle
from .foreign import adopted
from .isolated import FAILED
from .levels import Options
from .row import Row, row_in, source_file

# All that the author's process inherits: where programs and libraries lie, how to speak, how many threads. No token, no proxy, no home.
INHERITED = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_HOME",
    "SYSTEMROOT",
)
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
CACHE = "home/cache"  # of that process
SAID = 300  # characters of what a failed process said last


@contextmanager
def place(options: Options) -> Iterator[Path]:
    """The folder in which a row is made again: the verifier's, which stays, or one that goes away."""
    if options.scratch:
        options.scratch.mkdir(parents=True, exist_ok=True)
        yield options.scratch.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="palimpsest-again-") as name:
        yield Path(name)


def again(bundle: Bundle, suite: Suite, folder: Path, options: Options) -> Row:
    """The row of a bundle made again in `folder`, on this machine; what is there already is not made again.

    A method that fails or takes longer than it may is a `UserError`.
    """
    told = row_in(bundle, suite)
    precision = bundle.info.precision if bundle.info.device == device().type else suite.precision
    seeds = tuple(s for s in told.suite.seeds if not options.seeds or s in options.seeds)
    if not seeds:
        raise UserError(f"--seeds {list(options.seeds)}: the row has the seeds {list(told.suite.seeds)}.")
    store = Store(folder / "store")
    row = replace(told, suite=replace(told.suite, seeds=seeds, precision=precision), store=store, device="", progress=options.progress)
    if precision == "auto":
        row = replace(row, suite=replace(row.suite, precision=row.precision))
    if options.store.is_dir():
        _lend(Store(options.store), row)
    for seed in seeds:
        store.ensure(row.held(seed))
    todo = [s for s in seeds if not store.done(_made(row, s))]
    if todo:
        _take_over(row, _unlearned_apart(row, bundle, folder, todo, options), todo)
    row.execute()
    return row


def shared(row: Row) -> list[Stage]:
    """The stages that say nothing about the method: those of the base, the held models and the twins."""
    stages = [row.quality_stage(row.model(BASE, row.suite.seeds[0]))]
    for seed in row.suite.seeds:
        stages += [row.held(seed), row.twin(seed)]
        for model in (row.model(HELD, seed), row.model(TWIN, seed)):
            stages += [*row.attacking.stages(model), row.quality_stage(model)]
    return stages + ([row.attacking.thresholds] if row.who.needs_thresholds else [])


def _lend(mine: Store, row: Row) -> None:
    """Copies of such stages from the verifier's own store, whose files are checked on the way."""
    for stage in shared(row):
        if mine.done(stage) and not row.store.done(stage):
            _copy(mine.ensure(stage), row.store.folder(stage))


def _copy(source: Path, to: Path) -> None:
    part = to.with_name(f".{to.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    part.rename(to)


def _unlearned_apart(row: Row, bundle: Bundle, folder: Path, seeds: list[int], options: Options) -> Path:
    """Run the author's method on each seed's held model in a process of its own; the folder that holds SEED/ of each."""
    apart = folder / "apart"
    shutil.rmtree(apart, ignore_errors=True)
    for name in ("home", "tmp", "out", "store"):
        (apart / name).mkdir(parents=True)
    for seed in seeds:
        held = row.held(seed)
        (apart / "store" / held.kind).mkdir(exist_ok=True)
        _copy(row.store.ensure(held), apart / "store" / held.kind / held.key)
    if (made := cache_dir() / "corpus").is_dir():  # a copy of its own: to make it again would take minutes of each run
        shutil.copytree(made, apart / CACHE / "corpus")
    asked, paths = bundle.info.method.name, []
    if bundle.info.method.file:
        shutil.copytree(bundle.folder / METHOD, apart / METHOD)
        file = apart / METHOD / source_file(bundle).relative_to(bundle.folder / METHOD)
        module, attribute = bundle.info.method.module, bundle.info.method.attribute
        asked = f"{module or file}:{attribute}"
        paths = [str(apart / METHOD)] if module else [str(file.parent), str(apart / METHOD)]
    job = {"suite": _suite(row, asked), "method": asked, "seeds": seeds, "largest": LIMITS.file}
    job |= {"store": str(apart / "store"), "out": str(apart / "out")}
    (apart / "job.json").write_text(json.dumps(job), "utf-8")
    options.progress(f"{row.method}, in a process of its own", 0, 1)
    _process(apart, paths, options.limit)
    return apart / "out"


def _suite(row: Row, asked: str) -> dict[str, Any]:
    """The suite as the author's process gets it: its inputs lie on this disk, and no attack is named."""
    s = row.suite
    memories = s.memories if s.memories == "passages" else str(Path(s.memories).resolve())
    corpus = replace(s.corpus, path=str(Path(s.corpus.path).resolve())) if s.corpus.path and Path(s.corpus.path).exists() else s.corpus
    fields = dict(row.suite.methods[row.method])
    own = replace(
        s, model=str(row.base.folder.resolve()), revision=None, memories=memories, corpus=corpus, track="", attacks={}, reasked={}
    )
    return plain_config(replace(own, methods={HELD: {}, asked: fields}))


def _process(apart: Path, paths: list[str], limit: float) -> None:
    """Run the job; what lies in `paths` comes last, so that it stands in for nothing of ours."""
    environment = {k: os.environ[k] for k in INHERITED if k in os.environ} | OFFLINE
    environment |= {"HOME": str(apart / "home"), "TMPDIR": str(apart / "tmp"), "HF_HOME": str(apart / "home" / "hf")}
    environment |= {"PALIMPSEST_CACHE": str(apart / CACHE), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([*(p for p in sys.path if p), *paths])
    code = f"from {NAME}.benchmark.submission.isolated import main; main('job.json')"
    with (apart / "said.txt").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            cwd=apart,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        began = time.monotonic()
        try:
            status = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            raise UserError(
                f"the method was stopped after {time.monotonic() - began:.0f} seconds, which is all that --limit allows"
            ) from None
        finally:
            _end(process)
    if status:
        last = (apart / "said.txt").read_bytes()[-20_000:].decode("utf-8", "replace").strip().splitlines()
        why = next((line.strip() for line in reversed(last) if line.strip()), "nothing")
        raise UserError(f"the method's process {'failed' if status == FAILED else f'ended with status {status}'}: {why[:SAID]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """No process of the author's outlives this one's wait for it, children included."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _take_over(row: Row, out: Path, seeds: list[int]) -> None:
    """Put the weights into the row's store, as stages that our code made."""
    for seed in seeds:
        source = out / str(seed)
        if source.is_symlink() or not source.is_dir():
            raise UserError(f"the method left no model of seed {seed}")

        def build(folder: Path, source: Path = source) -> dict[str, Any]:
            subject = adopted(source, row.base, folder)
            _ = subject.model  # which refuses weights that are no numbers, or of another shape
            (folder / "trajectory.jsonl").write_text("")
            return {"tokens": 0, "steps": 0, "precision": row.precision}

        row.store.ensure(replace(_made(row, seed), build=build, work=Work))


def _made(row: Row, seed: int) -> Stage:
    stage = row.of(seed).stage
    assert stage is not None
    return stage
