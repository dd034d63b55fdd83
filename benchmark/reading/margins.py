"""Margins at positions of rows, how far the decisions that they make are trusted, and what a reading still needs: no model here.

A *track* is one row read at one layer. All tracks lie one behind the other in flat arrays; a *span* is a stretch of one
track, and its matched length is the run of hits from its beginning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

UNASKED, LOW, SPLIT, FULL, ALONE = range(5)  # what a position was decided by: nothing, bf16, split bf16, fp32, fp32 with the row alone
START = 0.2  # logits: the gate until enough bf16 margins were seen beside more careful ones
NARROW = 0.005  # logits: the same of split products, whose errors are hundreds of times smaller
SAFETY = 6.0  # the gate in root mean squares of their differences: among 110,000 decisions none turned beyond 2.7 of them
NEAR = 1.0  # logits: margins whose errors are those of close decisions
PAIRS = 64  # so many differences make a gate
LEAST_TIE = 1e-4  # logits: no less, whatever a measurement says, since it has seen few sizes of batches
TIE = 1e-3  # logits: fp32 decisions closer than this are made again with the row alone, so that batch mates cannot matter


@dataclass
class Gate:
    """How close a decision may be that was made with less care. Unless `fixed`, it is learnt from positions that were decided both ways."""

    fixed: float | None = None
    start: float = START
    pairs: int = 0
    squares: float = 0.0
    holds: bool | None = None  # what `try_out` found; None: not tried, as a fixed gate never is

    @property
    def width(self) -> float:
        """In logits. A few pairs can only widen the gate that nothing is known about yet."""
        if self.fixed is not None:
            return self.fixed
        width = SAFETY * math.sqrt(self.squares / max(1, self.pairs))
        return width if self.measured else max(self.start, width)

    @property
    def measured(self) -> bool:
        return self.fixed is not None or self.pairs >= PAIRS

    def try_out(self, low: np.ndarray, full: np.ndarray) -> None:
        """Margins of the same positions, near and far: a turn beyond the gate that the near ones ask for shows that it does not hold.

        So it is where small errors grow on the way, as behind a router that turns.
        """
        if self.fixed is None:
            near = np.abs(low) < NEAR
            width = max(self.width, SAFETY * math.sqrt(np.square(full[near] - low[near]).mean())) if near.any() else self.width
            turned = (low > 0) != (full > 0)
            self.holds = not (turned & (np.abs(low) > width)).any()

    def learn(self, low: np.ndarray, full: np.ndarray) -> None:
        """Margins of the same positions, with less care and with more. Chosen by the former, so their differences are a fair sample."""
        self.pairs += len(low)
        self.squares += float(np.square(full.astype(float) - low).sum())


@dataclass
class Gates:
    """One for each computation whose decisions may be too close to be trusted."""

    low: Gate
    split: Gate = field(default_factory=lambda: Gate(start=NARROW))
    tie: Gate = field(default_factory=lambda: Gate(start=TIE))  # of fp32; learnt only where split products are

    @property
    def doubt(self) -> np.ndarray:
        """For each kind of computation, how close its decisions may be."""
        tie = max(LEAST_TIE, self.tie.width)
        return np.array([0.0, self.low.width, max(self.split.width, tie), tie, 0.0])

    def learn(self, levels: np.ndarray, before: np.ndarray, margins: np.ndarray) -> None:
        """From positions that were decided before, at these levels, and now are with more care."""
        for level, gate in ((LOW, self.low), (SPLIT, self.split)):
            gate.learn(before[levels == level], margins[levels == level])


class Margins:
    """Margins of the positions of some tracks: positive where the model says the true token.

    `spans` are (track, begin, end), sorted by track, in tokens of the row; position t is decided by the t tokens before it.
    """

    def __init__(self, lengths: Sequence[int], spans: Sequence[tuple[int, int, int]]):
        self.start = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self.margin = np.zeros(self.start[-1], np.float32)
        self.level = np.zeros(self.start[-1], np.int8)
        table = np.array(spans, np.int64).reshape(-1, 3)
        self.track = table[:, 0]
        self.begin, self.end = table[:, 1:].T + self.start[self.track]
        self.width = int((self.end - self.begin).max(initial=1))
        self.first = np.searchsorted(self.track, np.arange(len(lengths) + 1))  # of each track's spans

    def spans_of(self, tracks: np.ndarray) -> np.ndarray:
        """Indices of the spans of these tracks."""
        return np.concatenate([np.arange(*self.first[t : t + 2].tolist()) for t in tracks.tolist()] or [self.first[:0]])

    def place(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Track, and token of its row, of flat positions."""
        track = np.searchsorted(self.start, position, "right") - 1
        return track, position - self.start[track]

    def matched(self) -> np.ndarray:
        """For every span the hits up to the first miss."""
        return np.concatenate([self._path(part)[1].sum(1) for part in self._parts()])

    def all_open(self, level: int, doubt: np.ndarray) -> np.ndarray:
        """`open` of every span."""
        return np.unique(np.concatenate([self.open(part, level, doubt, self.width) for part in self._parts()]))

    def open(self, spans: np.ndarray, level: int, doubt: np.ndarray, ahead: int) -> np.ndarray:
        """Flat positions that these spans read and that are not decided well enough yet, in order.

        Those are the unasked ones, `ahead` of them at a time, and those whose margin is within the `doubt` of a
        computation below `level`. Behind a doubtful position the run is followed as if the margin were right.
        """
        position, _, reached = self._path(spans)
        asked = self.level[position]
        unasked = reached & (asked == UNASKED)  # at most one of a span: it ends the path
        behind = np.arange(self.width) - np.where(unasked.any(1), unasked.argmax(1), self.width)[:, None]
        unasked = (behind >= 0) & (behind < ahead) & (position < self.end[spans][:, None]) & (asked == UNASKED)
        trusted = np.where(np.arange(ALONE + 1) < level, doubt, 0.0)
        doubtful = reached & (asked != UNASKED) & (np.abs(self.margin[position]) < trusted[asked])
        return np.unique(position[unasked | doubtful])

    def decide(self, position: np.ndarray, margin: np.ndarray, level: int) -> None:
        self.margin[position] = margin
        self.level[position] = level

    def _parts(self) -> list[np.ndarray]:
        """All spans, a few thousand at a time."""
        every = np.arange(len(self.track))
        return np.array_split(every, len(every) // 4096 + 1)

    def _path(self, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Flat positions [S, W] of spans; which belong to the run of hits; and the run with the position that ends it."""
        position = self.begin[spans][:, None] + np.arange(self.width)
        inside = position < self.end[spans][:, None]
        position = np.minimum(position, len(self.margin) - 1)
        hit = inside & (self.level[position] > UNASKED) & (self.margin[position] > 0)
        run = np.logical_and.accumulate(hit, 1)
        reached = inside & np.concatenate([np.ones((len(spans), 1), bool), run[:, :-1]], 1)
        return position, run, reached
