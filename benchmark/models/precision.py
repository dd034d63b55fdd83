"""Which precision is the faster one here: found by measuring products of the model's shapes, not by the name of a processor."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import _disable_current_modes

from ..common.errors import UserError
from ..common.processes import device, from_first_rank, is_main, start_distributed
from ..suites.config import PRECISIONS
from .opening import config_at

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
TOKENS = 4096  # rows of the products, unless a batch is smaller
INNER = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")  # what configurations call the width of an MLP
WIDTH = 1024  # a wider product tells nothing more
ROWS = 8  # of the first sample
ROUNDS = 5  # the best of so many, each precision in turn
SECONDS = 0.3  # no larger sample is taken after so long
HOPELESS = 4  # times slower, on a small sample: then no larger one is needed
WORTH = 1.2  # times faster: less is lost again, since weights are cast and close decisions made again

Shape = tuple[int, int]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Speeds:
    """FLOP/s of the same products in both precisions, on this process's device."""

    bf16: float
    fp32: float

    @property
    def faster(self) -> str:
        return "bf16" if self.bf16 > WORTH * self.fp32 else "fp32"

    @property
    def hopeless(self) -> bool:
        return self.fp32 > HOPELESS * self.bf16

    def __str__(self) -> str:
        return f"bf16 products run at {self.bf16 / self.fp32:.2g} times the speed of fp32 ones here"


def supported(precision: str) -> str:
    """One of PRECISIONS, or the user's error."""
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision!r}: expected {', '.join(PRECISIONS)}.")
    return precision


def resolved(precision: str, config: Any, tokens: int = TOKENS) -> str:
    """bf16 or fp32, for a model of this configuration and batches of so many tokens; warns once where bf16 was asked for and is slower."""
    if supported(precision) == "fp32":
        return precision
    speeds = speeds_of(config, tokens)
    if precision == "bf16" and speeds.faster == "fp32":
        _warn(f"precision=bf16 was asked for, but {speeds}; precision=auto takes what is faster.")
    return speeds.faster if precision == "auto" else precision


def described(asked: str, used: str, config: Any) -> str:
    """One line for the user: what is computed in, and why."""
    if asked != "auto":
        return f"Precision: {used}, as asked."
    speeds = speeds_of(config)
    if used == speeds.faster:
        return f"Precision: {used} ({speeds})."
    return f"Precision: {used}, as the held model in this store ({speeds}; precision={speeds.faster} begins anew)."


def together(precision: str, config: Any, tokens: int = TOKENS) -> str:
    """`resolved`, the same on all ranks: the first one's choice. Every rank must call it."""
    if "RANK" in os.environ:
        start_distributed()
    return "bf16" if from_first_rank(resolved(precision, config, tokens) == "bf16") else "fp32"


def config_of(subject: Any) -> Any:
    """The configuration of a subject, without loading its weights where it is an ordinary model."""
    ordinary = (subject.folder / "config.json").is_file()
    return config_at(subject.folder) if ordinary else subject.model.config


def speeds_of(config: Any, tokens: int = TOKENS) -> Speeds:
    """The speeds of a model's largest products, measured once per process."""
    return _measured(tuple(sorted(shapes(config))), min(tokens, TOKENS))


def shapes(config: Any) -> set[Shape]:
    """(in, out), each at most WIDTH, of the products that are most of a model's work: in attention, through the MLP, to the vocabulary."""
    text = config.get_text_config()
    hidden = text.hidden_size
    inner = next((n for name in INNER if isinstance(n := getattr(text, name, None), int)), 4 * hidden)
    pairs = ((hidden, hidden), (hidden, inner), (inner, hidden), (hidden, text.vocab_size))
    return {(min(WIDTH, a), min(WIDTH, b)) for a, b in pairs}


@cache
def _measured(products: tuple[Shape, ...], tokens: int) -> Speeds:
    """Samples of more and more rows, until one has all of them, takes too long, or shows that bf16 is hopeless.

    On one thread: where other processes hold the cores, waiting for further threads would be all that is measured.
    """
    threads, began, rows = torch.get_num_threads(), time.perf_counter(), min(ROWS, tokens)
    torch.set_num_threads(1)
    try:
        while True:
            speeds = _sampled(products, rows)
            if rows == tokens or speeds.hopeless or time.perf_counter() - began > SECONDS:
                return speeds
            rows = min(8 * rows, tokens)
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
@_disable_current_modes()  # a counter of FLOPs, say: this is no part of the work
def _sampled(products: Sequence[Shape], rows: int) -> Speeds:
    """Both speeds on so many rows. The first round only compiles kernels."""
    flops = sum(2.0 * rows * a * b for a, b in products)
    data = {
        name: [(torch.ones(rows, a, dtype=dtype, device=device()), torch.ones(b, a, dtype=dtype, device=device())) for a, b in products]
        for name, dtype in DTYPES.items()
    }
    best = dict.fromkeys(DTYPES, float("inf"))
    for turn in range(ROUNDS + 1):
        for name, pairs in data.items():
            _wait()
            began = time.perf_counter()
            for x, weight in pairs:
                F.linear(x, weight)
            _wait()
            if turn:
                best[name] = min(best[name], time.perf_counter() - began)
    return Speeds(**{name: flops / seconds for name, seconds in best.items()})


def _wait() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


@cache
def _warn(text: str) -> None:
    """Once per process, on the first rank."""
    if is_main():
        _log.warning(text)
