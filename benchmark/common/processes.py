"""The processes of a run: the device of each, and how ranks agree, share work and gather it."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist

from .errors import UserError

T = TypeVar("T")
WAIT = timedelta(days=7)  # that ranks wait for one that makes a stage alone; where its process ends, gloo ends theirs too
_meetings: list[Any] = []  # the group in which ranks wait for each other, beside the one in which they train


def device() -> torch.device:
    """The device of this process: its own GPU if there is one, else the CPU."""
    if torch.cuda.is_available():
        here = int(os.environ.get("LOCAL_RANK", 0))
        return torch.device("cuda", here % torch.cuda.device_count())  # a launcher may show each rank its own alone
    return torch.device("cpu")


def machine() -> str:
    """What the time of a piece of work depends on here, beside the work: the kind of device, and the threads of a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(device())
    return f"cpu, {torch.get_num_threads()} threads"


def start_distributed() -> None:
    """Join the launcher's process group, or make one of a single process that needs no port."""
    if dist.is_initialized():
        return
    keep_memory()
    gpu = torch.cuda.is_available()
    backend = "nccl" if gpu else "gloo"
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if gpu else "cpu")
    if gpu:
        torch.cuda.set_device(device())  # what names no device, such as a new tensor on "cuda", means this rank's own
        os.environ["LOCAL_RANK"] = str(device().index)  # DeepSpeed takes it for the number of a device that is seen here
    if "RANK" in os.environ and "MASTER_ADDR" in os.environ:
        dist.init_process_group(backend)
        _meetings[:] = [dist.new_group(backend="gloo", timeout=WAIT)]
    else:
        os.environ.setdefault("LOCAL_RANK", "0")
        store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    atexit.register(_leave)


def _leave() -> None:
    """Dissolve the process group at exit, which NCCL warns of otherwise."""
    if dist.is_initialized():
        dist.destroy_process_group()


def keep_memory() -> None:
    """Tell glibc to keep freed pages: a training step on the CPU otherwise spends a third of its time on page faults."""
    if sys.platform == "linux" and not torch.cuda.is_available():
        libc = ctypes.CDLL(None)
        with contextlib.suppress(AttributeError):  # a C library without mallopt
            libc.mallopt(ctypes.c_int(-4), ctypes.c_int(0))  # M_MMAP_MAX: no block has a mapping of its own
            libc.mallopt(ctypes.c_int(-1), ctypes.c_int(2**31 - 1))  # M_TRIM_THRESHOLD: do not give pages back


def is_main() -> bool:
    """True in the one process that writes files and shows progress."""
    return not dist.is_initialized() or dist.get_rank() == 0


def from_first_rank(value: bool) -> bool:
    """What the first rank says; every rank must call it. A meeting point as well."""
    if is_alone():
        return value
    flag = torch.tensor([int(value)])
    dist.broadcast(flag, src=0, group=_meeting())
    return bool(flag.item())


def _meeting() -> Any:
    """The group in which ranks wait; where somebody else made the processes' group, that one."""
    return _meetings[0] if _meetings else None


def is_alone() -> bool:
    """True where there are no other ranks."""
    return not dist.is_initialized() or dist.get_world_size() == 1


def gathered(items: list[Any]) -> list[Any]:
    """The items (JSON values) of every rank, in the order of the ranks, on every rank; every rank must call it."""
    if is_alone():
        return items
    mine = torch.frombuffer(bytearray(json.dumps(items).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.long) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(mine)]), group=_meeting())
    longest = int(max(int(size) for size in sizes))
    parts = [torch.zeros(longest, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(parts, torch.nn.functional.pad(mine, (0, longest - len(mine))), group=_meeting())
    texts = [bytes(part[: int(size)].numpy()) for part, size in zip(parts, sizes, strict=True)]
    return [item for text in texts for item in json.loads(text)]


def require_shared(folder: Path) -> None:
    """Refuse ranks that do not all see this folder: what one makes the others would make again, and wait for each other for ever."""
    if is_alone():
        return
    name, first = gathered([[uuid4().hex, str(folder)]])[0]
    token = folder / f".ranks-{name}"
    if is_main():
        token.touch()
    gathered([0])  # it is there
    seen = gathered([token.exists()])
    if is_main():
        token.unlink()
    if not all(seen):
        blind = ", ".join(str(rank) for rank, sees in enumerate(seen) if not sees)
        raise UserError(f"Ranks {blind} do not see the store of rank 0, {first}; name one with --store that all of them share.")


def my_share(items: Sequence[T]) -> list[T]:
    """What this rank works on of items that are independent of each other."""
    if not dist.is_initialized():
        return list(items)
    return list(items[dist.get_rank() :: dist.get_world_size()])
