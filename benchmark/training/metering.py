"""What a piece of work takes: seconds, FLOPs, and memory at its highest."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from ..common.processes import device, gathered, start_distributed

MIB = 2**20
CPU_ATTENTION: dict[Any, Any] = {  # the counter knows the attention of GPUs only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda d, q, k, v, *_, **__: sdpa_backward_flop_count(d, q, k, v),
}


@dataclass
class Meter:
    """Measures what happens inside `with meter:`. One that was not entered measures nothing.

    FLOPs are those of matrix products, convolutions and attention, as PyTorch's own counter sees them run, on all ranks
    together. The counter slows work down, so batches of a shape that was counted before are added from memory.
    """

    flops: int = 0  # of this rank
    seconds: float = 0.0
    peak: float | None = None  # MiB that this rank held at its highest, above what it held at the beginning; None if unknown
    _counter: FlopCounterMode = field(default_factory=lambda: FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION), repr=False)
    _counting: bool = field(default=False, repr=False)
    _known: dict[Hashable, int] = field(default_factory=dict, repr=False)  # shape of a batch -> FLOPs
    _began: float = field(default=0.0, repr=False)
    _before: float | None = field(default=None, repr=False)  # MiB

    def __enter__(self) -> Meter:
        _warm()
        reset_peak()
        self._before = memory("now")
        self._began = time.perf_counter() - self.seconds
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self.seconds = self._elapsed()
        highest = memory("peak")
        self.peak = highest - self._before if highest is not None and self._before is not None else None

    @contextmanager
    def batch(self, shape: Hashable | None) -> Iterator[None]:
        """One batch of training. All of one `shape` cost the same; None: this one may cost more, and is counted for itself."""
        if not self._counting:
            yield
            return
        self._stop()
        new = shape not in self._known
        before = self.flops
        try:
            if new:
                self._start()
            yield
        finally:
            if new:
                self._stop()
            self._start()
        if not new:
            self.flops += self._known[shape]
        elif shape is not None:
            self._known[shape] = self.flops - before

    def spent(self) -> dict[str, float]:
        """What was used so far, for `resumed`."""
        return {"flops": self.flops, "seconds": self._elapsed()} if self._counting else {}

    def resumed(self, spent: dict[str, float]) -> None:
        """Go on from where an interrupted run was."""
        if spent and self._counting:
            self.flops = int(spent["flops"])
            self._began = time.perf_counter() - spent["seconds"]

    def cost(self) -> dict[str, float | None]:
        """For a manifest: seconds, the FLOPs of all ranks, the peak of the rank with the greatest. Every rank calls it."""
        peaks = gathered([self.peak])
        peak = None if None in peaks else round(max(peaks), 1)
        return {"seconds": round(self.seconds, 2), "flops": sum(gathered([self.flops])), "peak_mib": peak}

    def _start(self) -> None:
        self._counting = True
        self._counter.__enter__()  # which begins at 0 again

    def _stop(self) -> None:
        self._counter.__exit__(None, None, None)
        self.flops += self._counter.get_total_flops()

    def _elapsed(self) -> float:
        return time.perf_counter() - self._began


@cache
def _warm() -> None:
    """What takes seconds and much memory once in a process, and is no part of the work."""
    import deepspeed  # noqa: F401

    start_distributed()
    with FlopCounterMode(display=False):  # it imports much when it is first used
        torch.zeros(1).sum()


def reset_peak() -> None:
    """Give back what was freed, and let the peak begin again at what is held now."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats(device())
    elif sys.platform == "linux":
        with suppress(AttributeError):  # a C library without malloc_trim
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def memory(when: str) -> float | None:
    """MiB held "now", or at the "peak" since the last reset: tensors on this process's GPU, else resident memory; None if unknown."""
    if torch.cuda.is_available():
        return (torch.cuda.memory_allocated(device()) if when == "now" else torch.cuda.max_memory_allocated(device())) / MIB
    with suppress(OSError):
        name = {"now": "VmRSS", "peak": "VmHWM"}[when]
        found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) / 1024 if found else None
    return None
