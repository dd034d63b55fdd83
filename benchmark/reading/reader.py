"""Reads matched lengths off teacher-forced forward passes: one pass over a row answers every cut of that row.

For a causal model in eval mode under greedy decoding, exactly l tokens are reproduced iff the teacher-forced argmax
equals the target at the first l positions and differs at the next. The reference is fp32; in bf16, rows are asked again
in fp32 up to the last position at which a decision that was read was close (docs/metrics.md says how close).

The definition alone is in `oracle`. Here: `reader` makes rows of probes, `cascade` asks the model about them, in `forward` passes
(with the body of `neox` where that is faster), until all `margins` that count are clear; `cache` keeps what was asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from ..common.errors import UserError
from ..common.processes import keep_memory
from ..common.progress import Progress, silent
from ..common.types import EncodedMemory, Probe, TokenReading
from ..models.bounds import mixes
from ..models.logits import route
from ..models.precision import resolved
from ..models.subject import Subject
from .cache import Cache, digests, load_cache, save_cache
from .cascade import Cascade, Job
from .forward import Forward
from .margins import Gate, Gates

__all__ = ["Reader", "load_cache", "save_cache", "spans_of", "without_copying"]


@dataclass
class Reader:
    """Asks one subject. Results do not depend on `tokens_per_batch`, nor on what else is asked.

    `gate` is how close a bf16 decision may be, in logits; None: as measured on this model. `cache` is what the model was
    asked before: those answers cost nothing.
    """

    subject: Subject
    precision: str = "auto"  # whichever of bf16 and fp32 is faster here: answers are the same
    gate: float | None = None
    tokens_per_batch: int | None = None
    progress: Progress = silent
    cache: Cache = field(default_factory=dict, repr=False)
    top: int = 40  # tokens whose mass a `TokenReading` tells
    readings: dict[str, TokenReading] = field(default_factory=dict, init=False, repr=False)
    lengths: dict[bytes, int] = field(default_factory=dict, init=False, repr=False)  # by digest; the cache's are among them
    rows_asked: int = field(default=0, init=False)
    rows_again: int = field(default=0, init=False)
    tokens: int = field(default=0, init=False)  # given to the model, padding not counted
    tokens_again: int = field(default=0, init=False)
    decisions: int = field(default=0, init=False)  # positions for which the head was needed
    used: str = field(default="", init=False)  # the precision of first passes: bf16 or fp32; "" if nothing was asked

    def __post_init__(self) -> None:
        self.lengths = dict(self.cache)
        self.gates = Gates(Gate(self.gate))

    def read(self, probes: Sequence[Probe], tokens: Sequence[EncodedMemory] = ()) -> list[tuple[int, ...]]:
        """For each probe the matched length after each of its cuts, copying counted as 0.

        Fills `readings` for the memories of `tokens`, from the same forward passes. A row that several probes share, or
        that begins another row, is asked once.
        """
        questions = [digests(p.prompt + p.target, spans_of(p), p.layer) for p in probes]
        self._ask(zip(probes, questions, strict=True), tokens)
        return [
            tuple(without_copying(p, span, self.lengths[q]) for span, q in zip(spans_of(p), names, strict=True))
            for p, names in zip(probes, questions, strict=True)
        ]

    def _ask(self, asked: Iterable[tuple[Probe, list[bytes]]], tokens: Sequence[EncodedMemory]) -> None:
        """Fill `lengths` and `readings`."""
        jobs = self._jobs(asked, tokens)
        if not jobs:
            return
        keep_memory()
        forward = Forward(self.subject, sorted({i for job in jobs for i in job.ids}))
        cascade = Cascade(forward, jobs, self.gates, self._tokens_per_batch, self.top, self.progress)
        config = self.subject.model.config
        self.used = "fp32" if mixes(config) else resolved(self.precision, config, self._tokens_per_batch)
        cascade.read(self.used)
        self.used = "bf16" if cascade.low else "fp32"
        self.lengths |= cascade.matched()
        self.readings |= cascade.readings
        self.rows_asked += len(jobs)
        self.rows_again += len(cascade.again)
        self.tokens += cascade.tokens
        self.tokens_again += cascade.tokens_again
        self.decisions += cascade.decisions

    def _jobs(self, asked: Iterable[tuple[Probe, list[bytes]]], tokens: Sequence[EncodedMemory]) -> list[Job]:
        """One job for each row that is not the beginning of another, with all that is not known yet."""
        jobs: dict[tuple[int, ...], Job] = {}
        for p, names in asked:
            new = {span: q for span, q in zip(spans_of(p), names, strict=True) if q not in self.lengths}
            if new:
                if self.subject.bos is None and min(new)[0] == 0:
                    raise UserError(f"A probe of memory {p.memory!r} gives the model nothing: its prompt is empty and so is its cut.")
                ids = (p.prompt + p.target)[: max(end for _, end in new)]
                jobs.setdefault(ids, Job(ids, about=p.memory)).spans.setdefault(p.layer, {}).update(new)
        for m in tokens:
            jobs.setdefault(m.row, Job(m.row, about=m.id)).memories.append(m)
        out: list[Job] = []
        for ids in sorted(jobs, reverse=True):  # a beginning comes right behind what it begins
            if out and out[-1].ids[: len(ids)] == ids:
                out[-1].take_in(jobs[ids])
            else:
                out.append(jobs[ids])
        return out

    @property
    def _tokens_per_batch(self) -> int:
        gpu = next(self.subject.model.parameters()).device.type == "cuda"
        usual = self.tokens_per_batch or (2**15 if gpu else 4096 * torch.get_num_threads())
        way = route(self.subject.model)
        return usual if way.body is not None else min(usual, 2**26 // way.vocabulary)  # states are then as wide as the vocabulary


def spans_of(p: Probe) -> list[tuple[int, int]]:
    """Where the reading of each cut begins and must end, in tokens of prompt + target."""
    length = len(p.prompt) + len(p.target)
    return [(len(p.prompt) + c, min(length, len(p.prompt) + c + p.horizon)) for c in p.cuts]


def without_copying(p: Probe, span: tuple[int, int], matched: int) -> int:
    """0 if the whole matched run already stands in what the model was given, unless what can be chosen is listed there."""
    ids = p.prompt + p.target
    return 0 if not p.lists and copied(ids[: span[0]], ids[span[0] : span[0] + matched]) else matched


def copied(given: tuple[int, ...], run: tuple[int, ...]) -> bool:
    """Whether a run of tokens stands, whole, in what the model was given."""
    return bool(run) and any(given[i : i + len(run)] == run for i in range(len(given) - len(run) + 1))
