"""The cascade of precisions: forward passes over rows until every position that a reading depends on is decided well enough.

First comes a pass in bf16 or fp32, then fp32 where a decision in bf16 was close, then single rows where even that was a near-tie.
On a GPU, where fp32 is slow, close decisions in bf16 are first made again in split products, and in fp32 where even these were close.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..common.progress import Progress, silent
from ..common.types import EncodedMemory, TokenReading
from ..models.split import Split, fits
from .forward import Forward, Layer, batches, padded
from .margins import ALONE, FULL, LOW, NEAR, PAIRS, SPLIT, START, Gates, Margins

BLOCK = 8  # positions behind the beginning of a span that are decided first,
HITS = 0.95  # unless in the batch before more than this share were hits: then all at once
SAMPLE = 8  # rows that are decided both ways before bf16 is trusted
WORTH = 64  # times the squared error of bf16 must be that of split products
STRIDE = 8  # every so many rows of a memory are asked first: they tell whether its runs go on

Span = tuple[int, int]


@dataclass
class Job:
    """One row to ask, what is read of it at which layers, and the memories whose every token is described from it."""

    ids: tuple[int, ...]
    spans: dict[Layer, dict[Span, bytes]] = field(default_factory=dict)  # each with the digest of its question
    memories: list[EncodedMemory] = field(default_factory=list)
    about: str = ""  # the memory that it was asked about first

    @property
    def careful(self) -> bool:
        """Whether fp32 states are wanted for their own sake."""
        return bool(self.memories) or any(layer is not None for layer in self.spans)

    @property
    def last(self) -> int:
        """The last position that is read: so many tokens the model must be given."""
        read = (end - 1 for spans in self.spans.values() for _, end in spans)
        return max([*read, *(len(m.row) - 1 for m in self.memories)])

    @property
    def short(self) -> int:
        """So many are enough if no run goes on for long."""
        return min(self.last, BLOCK + max((begin for spans in self.spans.values() for begin, _ in spans), default=self.last))

    def take_in(self, other: Job) -> None:
        """Read what the other wants too; its row begins this one."""
        for layer, spans in other.spans.items():
            self.spans.setdefault(layer, {}).update(spans)
        self.memories += other.memories


class Cascade:
    """Does jobs. `margins` then holds all decisions, `readings` what was said about every token of memories."""

    def __init__(
        self,
        forward: Forward,
        jobs: Sequence[Job],
        gates: Gates,
        tokens_per_batch: int,
        top: int = 40,
        progress: Progress = silent,
    ):
        self.forward, self.jobs, self.gates, self.top = forward, jobs, gates, top
        self.tokens_per_batch, self.progress = tokens_per_batch, progress
        self.tracks = [(j, layer) for j, job in enumerate(jobs) for layer in job.spans]
        spans = [(t, *span) for t, (j, layer) in enumerate(self.tracks) for span in jobs[j].spans[layer]]
        self.margins = Margins([len(jobs[j].ids) for j, _ in self.tracks], spans)
        self.truth = np.array([i for j, _ in self.tracks for i in jobs[j].ids], np.int64)
        self.job = np.array([j for j, _ in self.tracks], np.int64)
        self.layer = np.array([-1 if layer is None else layer for _, layer in self.tracks], np.int64)
        self.first = np.searchsorted(self.job, np.arange(len(jobs) + 1))  # of each job's tracks
        self.row = np.zeros(len(self.tracks), np.int64)  # of each track in the present batch
        self.readings: dict[str, TokenReading] = {}
        self.again: set[int] = set()  # jobs in which a decision was made again
        self.tokens = self.tokens_again = 0  # in first passes, and in those after them
        self.decisions = 0  # for which the head was needed
        self.low = False  # whether first passes are in bf16
        self.split: Split | None = None  # how close ones are made again, where fp32 is not the next
        self.ahead = BLOCK  # positions of a span that are decided first

    def read(self, precision: str) -> None:
        """Ask until nothing is open."""
        careful = [j for j, job in enumerate(self.jobs) if job.careful]
        plain = sorted(set(range(len(self.jobs))) - set(careful))
        self.expected = sum(job.last for job in self.jobs)
        self._sweep(careful, [self.jobs[j].last for j in careful], FULL, quick=False)
        self.low = precision == "bf16" and self._trusted(plain)
        self._screen(plain, LOW if self.low else FULL)
        while self._ask_again():
            pass

    def matched(self) -> dict[bytes, int]:
        """Digest of a question -> matched length."""
        asked = (digest for j, layer in self.tracks for digest in self.jobs[j].spans[layer].values())
        return dict(zip(asked, self.margins.matched().tolist(), strict=True))

    @torch.no_grad()
    def _trusted(self, jobs: Sequence[int]) -> bool:
        """Whether the gate holds on this model: no decision of a few rows turns in fp32 that was clear in bf16. Asked once.

        Chooses split products too, where they fit and the same rows show that they are worth it.
        """
        if jobs and self.gates.split.holds is not False and fits(self.forward.subject.model):
            self.split = Split(self.forward.subject.model)
        if self.gates.low.holds is None and jobs:
            lead = self.forward.lead
            rows = [self.jobs[j].ids[: self.jobs[j].last + 1] for j in jobs[:: -(-len(jobs) // SAMPLE)]]
            truth = torch.cat([torch.tensor(row[1:], device=self.forward.device) for row in rows])
            margins: dict[int, np.ndarray] = {}
            for level in (LOW, SPLIT, FULL) if self.split else (LOW, FULL):
                with self._arithmetic(level):
                    states = self.forward.states([row[:-1] for row in rows], (None,), level == LOW, quick=level != SPLIT)[None]
                    read = torch.cat([s[lead : lead + len(row) - 1] for s, row in zip(states, rows, strict=True)])
                    margins[level] = self.forward.margins(read, truth, level == LOW, START).cpu().numpy()
            self.gates.low.try_out(margins[LOW], margins[FULL])
            if self.split:
                alone = self.forward.states([rows[0][:-1]], (None,))[None][0, lead : lead + len(rows[0]) - 1]
                tie = self.forward.margins(alone, truth[: len(alone)], low=False).cpu().numpy()
                self.gates.tie.learn(margins[FULL][: len(tie)], tie)
                self.split = self.split if self._splits(margins) else None
        return self.gates.low.holds is not False

    def _splits(self, margins: dict[int, np.ndarray]) -> bool:
        """Whether split products are worth their time on this model, by the margins of some positions at three levels."""
        gate, full = self.gates.split, margins[FULL]
        gate.try_out(margins[SPLIT], full)
        off, worse = (np.square(margins[level] - full).mean() for level in (SPLIT, LOW))
        gate.holds = bool(gate.holds and off * WORTH < worse)
        near = np.abs(margins[SPLIT]) < NEAR
        gate.learn(margins[SPLIT][near], full[near])
        return gate.holds

    @contextmanager
    def _arithmetic(self, level: int) -> Iterator[None]:
        """The products of a level, as long as this lasts."""
        with torch.autocast(self.forward.device.type, torch.bfloat16, enabled=level == LOW):
            if level == SPLIT and self.split:
                with self.split.products():
                    yield
            else:
                yield

    def _screen(self, jobs: Sequence[int], level: int) -> None:
        """The first pass. Rows of a memory most of whose runs end early are at first given only a few tokens behind the last cut."""
        last, short = np.array([job.last for job in self.jobs]), np.array([job.short for job in self.jobs])
        groups: dict[str, list[int]] = defaultdict(list)
        for j in jobs:
            if short[j] < last[j]:
                groups[self.jobs[j].about].append(j)
        rest = [j for group in groups.values() for i, j in enumerate(group) if i % STRIDE]
        first = sorted(set(jobs) - set(rest))
        self._sweep(first, last[first].tolist(), level)
        given, reach = last.copy(), self._reach()
        for group in groups.values():
            some = group[::STRIDE]
            if (reach[some] > short[some]).mean() * last[group].mean() < (last[group] - short[group]).mean():
                given[group] = short[group]
        self._sweep(rest, given[rest].tolist(), level)
        reach = self._reach()
        on = [j for j in rest if given[j] < min(last[j], reach[j])]
        self._sweep(on, last[on].tolist(), level)

    def _reach(self) -> np.ndarray:
        """For each job the furthest position that some run of hits came to."""
        out = np.zeros(len(self.jobs), np.int64)
        track, begin = self.margins.place(self.margins.begin)
        np.maximum.at(out, self.job[track], begin + self.margins.matched())
        return out

    def _ask_again(self) -> bool:
        """Make close decisions with more care; False if there were none."""
        for level, gate in ((SPLIT, self.gates.low), (FULL, self.gates.split if self.split else self.gates.low), (ALONE, None)):
            if level == SPLIT and not self.split:
                continue
            track, position = self.margins.place(self.margins.all_open(level, self.gates.doubt))
            if not len(track):
                continue
            job = self.job[track]
            first = np.flatnonzero(np.diff(job, prepend=-1))  # of each job's open positions
            given = np.maximum.reduceat(position, first) if gate else np.minimum.reduceat(position, first)
            jobs = job[first]
            if gate and not gate.measured:  # first only what makes a gate
                some = slice(None, None, 1 + len(job) // (2 * PAIRS))
                jobs, given = jobs[some], given[some]
            self.again.update(jobs.tolist())
            for part in [slice(None)] if gate else [slice(i, i + 1) for i in range(len(jobs))]:
                self._sweep(jobs[part].tolist(), given[part].tolist(), level, again=True, quick=level == FULL)
            return True
        return False

    @torch.no_grad()  # not inference_mode: autocast would cast the weights anew in every layer
    def _sweep(self, jobs: Sequence[int], given: Sequence[int], level: int, again: bool = False, quick: bool = True) -> None:
        """Forward passes over the first `given` tokens of these jobs. `quick`: a faster body will do; not where a decision is final."""
        device = self.forward.device.type
        with self._arithmetic(level):
            for batch in batches([padded(n + self.forward.lead) for n in given] if level == LOW else given, self.tokens_per_batch, device):
                part, lengths = [jobs[b] for b in batch], [given[b] for b in batch]
                rows = [self.jobs[j].ids[:n] for j, n in zip(part, lengths, strict=True)]
                layers = {None}.union(*(self.jobs[j].spans for j in part))
                states = self.forward.states(rows, layers, level == LOW, quick)
                self._settle(states, part, np.array(lengths), level)
                for b, j in enumerate(part):
                    for m in self.jobs[j].memories:
                        if m.id not in self.readings:
                            self.readings[m.id] = self.forward.reading(m.id, m.row, states[None][b], self.top)
                self.tokens, self.tokens_again = self.tokens + (not again) * sum(lengths), self.tokens_again + again * sum(lengths)
                self.progress("", min(self.tokens, self.expected), self.expected)

    def _settle(self, states: dict[Layer, Tensor], jobs: Sequence[int], given: np.ndarray, level: int) -> None:
        """Decide what the spans of these jobs read, a block of positions at a time, only where the run still goes on."""
        tracks = np.concatenate([np.arange(self.first[j], self.first[j + 1]) for j in jobs])
        self.row[tracks] = np.repeat(np.arange(len(jobs)), [self.first[j + 1] - self.first[j] for j in jobs])
        spans, block, hits = self.margins.spans_of(tracks), self.ahead, []
        while True:
            want = self.margins.open(spans, level, self.gates.doubt, block)
            track, at = self.margins.place(want)
            there = at <= given[self.row[track]]
            if not there.any():
                break
            for layer in np.unique(self.layer[track[there]]).tolist():
                mine = there & (self.layer[track] == layer)
                hits.append(self._decide(states[None if layer < 0 else layer], want[mine], self.row[track[mine]], at[mine], level))
            if level == LOW and block == self.margins.width:
                break  # all is decided; with more care, what is decided anew may lead further
            block = self.margins.width  # who has come so far mostly goes on
        if hits:
            self.ahead = self.margins.width if hits[0] > HITS else BLOCK

    def _decide(self, states: Tensor, position: np.ndarray, row: np.ndarray, at: np.ndarray, level: int) -> float:
        """Margins of flat positions from states [B, T, H]: token `at` of a row of the batch is decided behind the one before.

        Returns the share of hits.
        """
        flat = torch.from_numpy(row * states.shape[1] + at - 1 + self.forward.lead).to(states.device)
        truth = torch.from_numpy(self.truth[position]).to(states.device)
        margin = self.forward.margins(states.flatten(0, 1).index_select(0, flat), truth, level == LOW, self.gates.low.width).cpu().numpy()
        self.decisions += len(position)
        self.gates.learn(self.margins.level[position], self.margins.margin[position], margin)
        self.margins.decide(position, margin, level)
        return float((margin > 0).mean())
