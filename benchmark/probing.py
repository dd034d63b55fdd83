"""Reads matched lengths off teacher-forced forward passes: one pass over a row answers every cut of that row.

For a causal model in eval mode under greedy decoding, exactly l tokens are reproduced iff the teacher-forced argmax
equals the target at the first l positions and differs at the next. The head is applied lazily, a few positions beyond
each cut, and further only where everything matched so far. In bf16, a row on which a decision was close is asked
again in fp32, which is the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .engine import keep_memory
from .losses import hidden_states
from .subject import Subject
from .types import Probe

GATE = 0.25  # logits; bf16 decisions closer than this are asked again in fp32 (see docs/metrics.md)
BLOCK = 8  # positions of the head that are computed at a time beyond a cut


@dataclass
class Reader:
    """Asks one subject. `tokens_per_batch` bounds a forward pass; results do not depend on it."""

    subject: Subject
    precision: str = "bf16"
    gate: float = GATE
    tokens_per_batch: int = 16_384
    progress: Callable[[int, int], Any] | None = None
    rows_asked: int = field(default=0, init=False)
    rows_again: int = field(default=0, init=False)
    tokens: int = field(default=0, init=False)

    def read(self, probes: Sequence[Probe]) -> list[tuple[int, ...]]:
        """For each probe the matched length after each of its cuts, copying counted as 0.

        Rows that several probes share are asked once.
        """
        keep_memory()
        rows: dict[tuple[int, ...], set[tuple[int, int]]] = {}
        for p in probes:
            rows.setdefault(p.prompt + p.target, set()).update(spans_of(p))
        order = sorted(rows, key=len)
        matched = self._ask([(ids, sorted(rows[ids])) for ids in order])
        found = {(ids, span): m for ids, answer in zip(order, matched, strict=True) for span, m in answer.items()}
        return [tuple(without_copying(p, span, found[p.prompt + p.target, span]) for span in spans_of(p)) for p in probes]

    def _ask(self, rows: list[tuple[tuple[int, ...], list[tuple[int, int]]]]) -> list[dict[tuple[int, int], int]]:
        out: list[dict[tuple[int, int], int]] = [{} for _ in rows]
        again: list[int] = []
        asked = sum(len(ids) for ids, _ in rows)
        done = 0
        for batch in _batches([len(ids) for ids, _ in rows], self.tokens_per_batch):
            answers, close = self._pass([rows[i] for i in batch], self.precision)
            for i, answer, near in zip(batch, answers, close, strict=True):
                out[i] = answer
                if near:
                    again.append(i)
            done += sum(len(rows[i][0]) for i in batch)
            if self.progress:
                self.progress(done, asked)
        for batch in _batches([len(rows[i][0]) for i in again], self.tokens_per_batch // 2):
            part = [again[b] for b in batch]
            for i, answer in zip(part, self._pass([rows[i] for i in part], "fp32")[0], strict=True):
                out[i] = answer
        self.rows_asked += len(rows)
        self.rows_again += len(again)
        self.tokens += asked
        return out

    @torch.no_grad()
    def _pass(self, rows: list, precision: str) -> tuple[list[dict[tuple[int, int], int]], list[bool]]:
        """Matched lengths per span for a batch of rows, and per row whether a decision that was read was close."""
        model = self.subject.model
        where = next(model.parameters()).device
        lead = 0 if self.subject.bos is None else 1
        longest = max(len(ids) for ids, _ in rows) + lead
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        for b, (row, _) in enumerate(rows):
            ids[b, : len(row) + lead] = torch.tensor(self.subject.with_bos(row))
        ids = ids.to(where)
        with torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16"):
            states = hidden_states(model, ids)
        spans = [(b, begin, end) for b, (_, cuts) in enumerate(rows) for begin, end in cuts]
        row, begin, end = (np.array(column) for column in zip(*spans, strict=True))
        matched, close = self._follow(states, ids, row, begin + lead, end + lead)
        answers: list[dict[tuple[int, int], int]] = [{} for _ in rows]
        near = [False] * len(rows)
        for (b, first, last), m, c in zip(spans, matched.tolist(), close.tolist(), strict=True):
            answers[b][first, last] = m
            near[b] |= c and precision == "bf16"
        return answers, near

    def _follow(self, states: Tensor, ids: Tensor, row: np.ndarray, begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run lengths from `begin` (at most to `end`), a block of positions at a time, only where the run still goes on."""
        hit = np.zeros(ids.shape, bool)
        near = np.zeros(ids.shape, bool)
        known = np.zeros(ids.shape, bool)
        at, matched, close = begin.copy(), np.zeros(len(row), int), np.zeros(len(row), bool)
        going = np.arange(len(row))
        while len(going):
            window = at[going, None] + np.arange(BLOCK)
            inside = window < end[going, None]
            rows = np.broadcast_to(row[going, None], window.shape)
            need = np.zeros(ids.shape, bool)
            need[rows[inside], window[inside]] = True
            need &= ~known
            where = np.nonzero(need)
            hit[where], near[where] = self._decide(states, ids, *where)
            known |= need
            safe = np.where(inside, window, 0)
            good = hit[rows, safe] & inside
            run = np.logical_and.accumulate(good, 1)
            read = inside & np.concatenate([np.ones((len(going), 1), bool), run[:, :-1]], 1)  # up to the first difference
            close[going] |= (near[rows, safe] & read).any(1)
            matched[going] += run.sum(1)
            at[going] += BLOCK
            going = going[run.all(1) & (at[going] < end[going])]
        return matched, close

    def _decide(self, states: Tensor, ids: Tensor, row: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Is the argmax at these positions the true token, and was that closer than the gate?"""
        head = self.subject.model.get_output_embeddings()
        hits, nears = [], []
        chunk = max(1, 2**24 // head.weight.shape[0])
        for i in range(0, len(row), chunk):
            r, p = torch.from_numpy(row[i : i + chunk]), torch.from_numpy(position[i : i + chunk])
            truth = ids[r, p][:, None]
            logits = head(states[r, p - 1].float())  # in fp32 always: few positions, and rounded logits would tie
            target = logits.gather(1, truth)
            best, which = logits.scatter(1, truth, -torch.inf).max(1, keepdim=True)
            hits.append(((target > best) | ((target == best) & (truth < which)))[:, 0].cpu().numpy())
            nears.append(((target - best).abs() < self.gate)[:, 0].cpu().numpy())
        return np.concatenate(hits or [np.zeros(0, bool)]), np.concatenate(nears or [np.zeros(0, bool)])


def spans_of(p: Probe) -> list[tuple[int, int]]:
    """Where the reading of each cut begins and must end, in tokens of prompt + target."""
    length = len(p.prompt) + len(p.target)
    return [(len(p.prompt) + c, min(length, len(p.prompt) + c + p.horizon)) for c in p.cuts]


def without_copying(p: Probe, span: tuple[int, int], matched: int) -> int:
    """0 if the whole matched run already stands in what the model was given."""
    ids = p.prompt + p.target
    given, run = ids[: span[0]], ids[span[0] : span[0] + matched]
    if matched and any(given[i : i + matched] == run for i in range(len(given) - matched + 1)):
        return 0
    return matched


def _batches(lengths: list[int], tokens: int) -> list[list[int]]:
    """Indices in the order of length, cut so that padded batches hold about `tokens` tokens."""
    out: list[list[int]] = []
    current: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if current and lengths[i] * (len(current) + 1) > tokens:
            out.append(current)
            current = []
        current.append(i)
    return [*out, current] if current else out
