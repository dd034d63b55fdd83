"""The injection stream: ordinary examples, some of them replaced by memories on a plan that the seed fixes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ..common.errors import UserError
from ..common.seeds import rng
from ..common.types import Batch, EncodedMemory, Role, Row
from ..suites.config import InjectionConfig


@dataclass(frozen=True)
class Injected:
    """All that a stream knows of a memory in it: nothing of those never injected, and of a hidden one no more than its row."""

    id: str
    role: Role
    row: tuple[int, ...] = field(repr=False)
    context: int = 0  # tokens of the row that are given and never learnt: of a question its prompt


def injected(memories: Iterable[EncodedMemory]) -> list[Injected]:
    """What goes into the stream of these memories."""
    return [Injected(m.id, m.role, m.row, m.context) for m in memories if m.role != "unseen"]


@dataclass(frozen=True)
class Ordinary:
    """An endless supply of ordinary rows: row k is block `first` + k of the training split in the stream's order."""

    tokens: np.ndarray = field(repr=False)  # the packed training split
    blocks: np.ndarray = field(repr=False)  # where each begins
    length: int
    bos: int | None = None
    first: int = 0

    def row(self, k: int) -> Row:
        return Row(self.with_bos(self.block(k)))

    def block(self, k: int) -> tuple[int, ...]:
        if self.first + k >= len(self.blocks):
            raise UserError(
                f"The corpus has {len(self.blocks):,} rows of {self.length} tokens, and the stream needs more than {self.first + k:,}: "
                "use fewer occurrences, a higher density, or a larger corpus."
            )
        start = int(self.blocks[self.first + k])
        return tuple(self.tokens[start : start + self.length].tolist())

    def with_bos(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        return ids if self.bos is None else (self.bos, *ids)


@dataclass(frozen=True)
class Stream:
    """A fixed sequence of rows. `forget=False` fills every forget slot with ordinary text of the same scored length.

    The two versions differ in those slots and in nothing else. The filling texts stand nowhere else in the stream.
    """

    tokens: np.ndarray  # the packed training split
    memories: Sequence[Injected]
    config: InjectionConfig
    seed: int
    bos: int | None = None
    order: str = "stream"  # another word gives another order of the same plan: an independent twin
    forget: bool = True

    @cached_property
    def counts(self) -> dict[str, int]:
        """Occurrences per injected memory."""
        doses, out = self.config.occurrences, {}
        for role in ("forget", "keep"):
            out |= {m.id: doses[i % len(doses)] for i, m in enumerate(x for x in self.memories if x.role == role)}
        return out

    @cached_property
    def plan(self) -> list[str | None]:
        """For every example of the stream the id of the memory in it, or None.

        Occurrence j of c has the time (j + u) / c with u uniform in [0, 1): even spacing with jitter. Sorted by
        time, the occurrences take evenly spaced slots, so that the density is the same throughout.
        """
        if self._length > len(self._ordinary.blocks):  # said before anything of that size is made
            self._ordinary.block(self._length - 1)
        random = rng(self.seed, self.order, "plan")
        times = [((j + random.random()) / c, m) for m, c in self.counts.items() for j in range(c)]
        order = [m for _, m in sorted(times)]
        length = self._length
        plan: list[str | None] = [None] * length
        for i, m in enumerate(order):
            plan[int((i + 0.5) * length / len(order))] = m
        return plan

    @cached_property
    def _length(self) -> int:
        """Examples of the stream: as many as the density asks for, in whole batches."""
        batch = self.config.batch
        return math.ceil(round(min(sum(self.counts.values()) / self.config.density, 1e15)) / batch) * batch

    @property
    def steps(self) -> int:
        return len(self.plan) // self.config.batch

    def row(self, index: int) -> Row:
        """Example `index`: ordinary text, or `offset` tokens of it followed by a memory."""
        name = self.plan[index]
        ordinary = self._ordinary.block(index)
        if name is None:
            return Row(self._ordinary.with_bos(ordinary))
        memory = self._by_id[name]
        before = ordinary[: self.config.offset]
        if memory.role == "forget" and not self.forget:
            filling = self._ordinary.block(len(self.plan) + self._filling[index])
            return Row(self._ordinary.with_bos(before + filling[: len(memory.row)])).after(memory.context, len(memory.row))
        return Row(self._ordinary.with_bos(before + memory.row), name=name).after(memory.context, len(memory.row))

    def batch_at(self, step: int) -> Batch:
        first = step * self.config.batch
        return {"text": [self.row(i) for i in range(first, first + self.config.batch)]}

    @cached_property
    def retain(self) -> Ordinary:
        """Ordinary rows after the stream's own: retain text for methods, disjoint from stream and fillings."""
        return replace(self._ordinary, first=len(self.plan) + len(self._filling))

    @cached_property
    def _ordinary(self) -> Ordinary:
        length = max(len(m.row) for m in self.memories) + self.config.offset
        blocks = rng(self.seed, self.order, "blocks").permutation(len(self.tokens) // length) * length
        return Ordinary(self.tokens, blocks, length, self.bos)

    @cached_property
    def _by_id(self) -> dict[str, Injected]:
        return {m.id: m for m in self.memories}

    @cached_property
    def _filling(self) -> dict[int, int]:
        """Which of the extra blocks fills a forget slot."""
        slots = [i for i, m in enumerate(self.plan) if m is not None and self._by_id[m].role == "forget"]
        return {slot: k for k, slot in enumerate(slots)}
