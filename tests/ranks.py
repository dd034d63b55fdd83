"""Ranks as forks of one process that has imported everything once: a Python of its own would take each of them seconds to start."""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")
PLAIN = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}  # one GPU is not enough for two of them
IMPORTED = ("deepspeed", "peft", "transformers.models.gpt_neox.modeling_gpt_neox", "tests.benchmark.parity_worker")


def forks() -> Any:
    """A multiprocessing context whose processes are forks of one that has imported everything, and that begins when first asked for."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in PLAIN.items():
            patch.setenv(name, value)
        forkserver.ensure_running()
    return context


def ranks(world: int, work: Callable[..., object], *arguments: Any, limit: float = 600.0) -> None:
    """Run `work(*arguments)` as so many ranks to their end; when one fails or `limit` seconds are over, end all and show their output.

    One process alone gets no rank and makes its own group. `work` is a function at the top of a module.
    """
    make = forks().Process
    group = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    own = [group | {"RANK": str(r), "LOCAL_RANK": str(r)} if world > 1 else {} for r in range(world)]
    with tempfile.TemporaryDirectory() as logs:
        files = [Path(logs) / str(r) for r in range(world)]
        started = [make(target=_rank, args=(f, o, work, arguments), daemon=True) for f, o in zip(files, own, strict=True)]
        for process in started:
            process.start()
        end = time.monotonic() + limit
        while any(p.exitcode is None for p in started) and not any(p.exitcode for p in started) and time.monotonic() < end:
            time.sleep(0.02)
        codes = [p.exitcode for p in started]
        for process in started:
            process.kill()
            process.join()
        if any(code != 0 for code in codes):
            told = zip(codes, files, strict=True)
            raise RuntimeError("\n".join(f"rank {r} ended with {code}:\n{f.read_text()[-3000:]}" for r, (code, f) in enumerate(told)))


def _rank(log: Path, own: dict[str, str], work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    with log.open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    for name in RANK_VARIABLES:
        os.environ.pop(name, None)
    os.environ |= own
    work(*arguments)
    if dist.is_initialized():
        dist.destroy_process_group()


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
