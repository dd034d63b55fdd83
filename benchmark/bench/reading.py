"""How fast a model is read: against greedy generate() over the same windows, and against what the machine's matrix units could do."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from ..commands.progress import Display
from ..common.processes import device
from ..common.types import HORIZON, Probe
from ..models.precision import DTYPES
from ..models.subject import Subject
from ..reading.reader import Reader, spans_of, without_copying
from .budget import ROUNDS, Budget, spread

Peaks = dict[str, float]  # FLOP/s of a large product, by precision: those that are worth measuring here
WINDOWS = (8, 16, 32, 64)
BATCH = 64  # prompts that generate() takes at once
LEAST = 2  # batches of each length, below which generate() would be slowed down by our own choice
SHAPES = {  # width, layers, heads of the Pythia models
    "Pythia-160M": (768, 12, 12),
    "Pythia-1.4B": (2048, 24, 16),
    "Pythia-6.9B": (4096, 32, 32),
}


def windows(rows: dict[str, tuple[int, ...]]) -> list[Probe]:
    """A window of k tokens from every start, for every k that leaves something to read: one row per start, a cut per window."""
    out = []
    for name, row in rows.items():
        for start in range(len(row) - WINDOWS[0]):
            fitting = [k for k in WINDOWS if start + k < len(row)]
            first, end = start + WINDOWS[0], start + fitting[-1] + HORIZON
            cuts = tuple(k - WINDOWS[0] for k in fitting)
            out.append(Probe(name, row[start:first], row[first:end], first, cuts, tuple(map(str, fitting)), start))
    return out


@torch.no_grad()
def generated_lengths(subject: Subject, probes: list[Probe], batch: int = BATCH) -> list[int]:
    """Matched lengths the way public code gets them: greedy generate() over all windows, batched by prompt length."""
    asked = [(p, span) for p in probes for span in spans_of(p)]
    out = [0] * len(asked)
    order = sorted(range(len(asked)), key=lambda i: (asked[i][1][0], asked[i][1][0] - asked[i][1][1]))
    while order:
        length = asked[order[0]][1][0]
        part = [i for i in order[:batch] if asked[i][1][0] == length]
        order = order[len(part) :]
        ids = torch.tensor([subject.with_bos((p.prompt + p.target)[:length]) for p, _ in (asked[i] for i in part)], device=device())
        tokens = max(end - begin for _, (begin, end) in (asked[i] for i in part))
        said = subject.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[:, ids.shape[1] :].tolist()
        for i, answer in zip(part, said, strict=True):
            p, (begin, end) = asked[i]
            truth = (p.prompt + p.target)[begin:end]
            matched = next((n for n, (a, b) in enumerate(zip(answer, truth, strict=False)) if a != b), len(truth))
            out[i] = without_copying(p, (begin, end), matched)
    return out


def reading(
    what: str, subject: Subject, rows: dict[str, tuple[int, ...]], peaks: Peaks, table: Table, display: Display, budget: Budget
) -> None:
    """Rows of the table: the reader in each precision against generate(), in turn; how many answers differ, tokens/s, share of that
    precision's peak.

    Windows from evenly spaced starts, as many as the budget has time for, in steps of what generate() takes in one batch.
    """
    if budget.spent:
        table.add_row(f"reading {what}", "left out", "", "the time for reading was over")
        return
    probes = windows(rows)
    display.begin(f"reading {what}: how long do a few windows take?")
    few = spaced(probes, BATCH)
    first, _ = timed(lambda: (generated_lengths(subject, few), *(Reader(subject, p).read(few) for p in peaks)))  # compiles kernels, too
    probes = spaced(probes, BATCH * budget.fitting(ROUNDS * first, LEAST, math.ceil(len(probes) / BATCH)))
    slow, taken = [], {precision: [] for precision in peaks}
    readers, answers, reference = {}, {}, []
    for done in range(ROUNDS):
        display.update(f"reading {what}: rounds of generate() and reading", done, ROUNDS)
        seconds, reference = timed(lambda: generated_lengths(subject, probes))
        slow.append(seconds)
        for precision in peaks:
            readers[precision] = reader = Reader(subject, precision)
            seconds, answers[precision] = timed(lambda r=reader: [n for answer in r.read(probes) for n in answer])
            taken[precision].append(seconds)
    for precision, peak in peaks.items():
        reader, fast = readers[precision], statistics.median(taken[precision])
        differ = sum(a != b for a, b in zip(answers[precision], reference, strict=True))
        rate, share = (reader.tokens + reader.tokens_again) / fast, flops(reader) / fast / peak
        table.add_row(
            f"reading {what}, {precision}",
            f"{len(reference):,} windows: {differ} differ; {rate:,.0f} tokens/s, {share:.0%} of peak",
            spread([a / b for a, b in zip(slow, taken[precision], strict=True)]),
            f"greedy generate() in fp32, {statistics.median(slow):.1f} s; {reader.rows_again / reader.rows_asked:.1%} of rows again",
        )


def spaced(probes: list[Probe], count: int) -> list[Probe]:
    """So many of them, evenly spaced; all where there are no more."""
    count = min(count, len(probes))
    return [probes[i * len(probes) // count] for i in range(count)]


def flops(reader: Reader) -> float:
    """Of the products with weights: the body for every token given, the head for every position decided. Attention is left out."""
    model = reader.subject.model
    head = model.get_output_embeddings().weight
    body = sum(p.numel() for p in model.base_model.parameters() if p.ndim == 2) - model.get_input_embeddings().weight.numel()
    return 2.0 * body * (reader.tokens + reader.tokens_again) + 2.0 * head.numel() * reader.decisions


def matmul_peak(precision: str, seconds: float = 1.0, n: int | None = None) -> float:
    """FLOP/s of one large product, the best of as many as fit into this time."""
    n = n or (8192 if device().type == "cuda" else 2048)
    a, b = (torch.randn(n, n, device=device(), dtype=DTYPES[precision]) for _ in range(2))
    best, left = float("inf"), seconds
    timed(lambda: a @ b)
    while left > 0:
        taken, _ = timed(lambda: a @ b)
        best, left = min(best, taken), left - taken
    return 2 * n**3 / best


def shapes(
    folder: Path,
    base: Subject,
    peaks: Peaks,
    table: Table,
    display: Display,
    sizes: dict[str, tuple[int, int, int]] = SHAPES,
    length: int = 160,
    seconds: float = math.inf,
) -> None:
    """The same for models of the Pythia models' shapes, each in so much time; random weights, and rows that each says itself."""
    for name, (width, layers, heads) in sizes.items():
        subject = random_subject(folder / name, base, width, layers, heads)
        begin = torch.arange(4 * 8, device=device()).reshape(4, 8) + 100
        said = subject.generate([tuple(ids) for ids in begin.tolist()], length - 8)
        rows = {str(i): (*ids, *more) for i, (ids, more) in enumerate(zip(begin.tolist(), said, strict=True))}
        reading(f"{name} (random weights)", subject, rows, peaks, table, display, Budget(seconds, 1))
        subject.release()


def random_subject(folder: Path, base: Subject, width: int, layers: int, heads: int) -> Subject:
    """A GPT-NeoX of this shape with Pythia's vocabulary size, in memory only."""
    config = shape_of(width, layers, heads)
    config.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    subject = Subject(folder)
    subject.__dict__["model"] = random_model(config)
    return subject


def shape_of(width: int, layers: int, heads: int) -> GPTNeoXConfig:
    """The configuration of such a model."""
    return GPTNeoXConfig(
        vocab_size=50304,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
    )


def random_model(config: GPTNeoXConfig) -> GPTNeoXForCausalLM:
    """Its weights drawn on the device: the largest has 27 GB."""
    torch.manual_seed(0)
    with torch.device(device()):
        return GPTNeoXForCausalLM(config).eval()


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came out; waits for a GPU."""
    wait()
    began = time.perf_counter()
    out = call()
    wait()
    return time.perf_counter() - began, out


def wait() -> None:
    """Until a GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
