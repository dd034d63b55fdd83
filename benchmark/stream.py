"""The injection stream: ordinary examples, some of them replaced by memories on a plan that the seed fixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .config import InjectionConfig
from .errors import UserError
from .seeds import rng
from .training import Batch
from .types import EncodedMemory, Row


@dataclass(frozen=True)
class Stream:
    """A fixed sequence of rows. `forget=False` fills every forget slot with ordinary text of the same scored length.

    The two versions differ in those slots and in nothing else. The filling texts stand nowhere else in the stream.
    """

    tokens: np.ndarray  # the packed training split
    memories: Sequence[EncodedMemory]
    config: InjectionConfig
    seed: int
    bos: int | None = None
    order: str = "stream"  # another word gives another order of the same plan: an independent twin
    forget: bool = True

    @cached_property
    def injected(self) -> list[EncodedMemory]:
        return [m for m in self.memories if m.role != "unseen"]

    @cached_property
    def counts(self) -> dict[str, int]:
        """Occurrences per injected memory."""
        doses, out = self.config.occurrences, {}
        for role in ("forget", "keep"):
            out |= {m.id: doses[i % len(doses)] for i, m in enumerate(x for x in self.injected if x.role == role)}
        return out

    @cached_property
    def plan(self) -> list[str | None]:
        """For every example of the stream the id of the memory in it, or None.

        Occurrence j of c has the time (j + u) / c with u uniform in [0, 1): even spacing with jitter. Sorted by
        time, the occurrences take evenly spaced slots, so that the density is the same throughout.
        """
        random = rng(self.seed, self.order, "plan")
        times = [((j + random.random()) / c, m) for m, c in self.counts.items() for j in range(c)]
        order = [m for _, m in sorted(times)]
        batch = self.config.batch
        length = -(-round(len(order) / self.config.density) // batch) * batch
        plan: list[str | None] = [None] * length
        for i, m in enumerate(order):
            plan[int((i + 0.5) * length / len(order))] = m
        return plan

    @property
    def steps(self) -> int:
        return len(self.plan) // self.config.batch

    def row(self, index: int) -> Row:
        """Example `index`: ordinary text, or `offset` tokens of it followed by a memory."""
        name = self.plan[index]
        ordinary = self._block(index)
        if name is None:
            return Row(self._with_bos(ordinary))
        memory = self._by_id[name]
        before = ordinary[: self.config.offset]
        if memory.role == "forget" and not self.forget:
            return Row(self._with_bos(before + self._block(len(self.plan) + self._filling[index])[: len(memory.row)]))
        return Row(self._with_bos(before + memory.row), name=name)

    def batch_at(self, step: int) -> Batch:
        first = step * self.config.batch
        return {"text": [self.row(i) for i in range(first, first + self.config.batch)]}

    def retain_row(self, k: int) -> Row:
        """Ordinary row k after the stream's own: retain text for methods, disjoint from stream and fillings."""
        return Row(self._with_bos(self._block(len(self.plan) + len(self._filling) + k)))

    @cached_property
    def _by_id(self) -> dict[str, EncodedMemory]:
        return {m.id: m for m in self.memories}

    @cached_property
    def _filling(self) -> dict[int, int]:
        """Which of the extra blocks fills a forget slot."""
        slots = [i for i, m in enumerate(self.plan) if m is not None and self._by_id[m].role == "forget"]
        return {slot: k for k, slot in enumerate(slots)}

    @cached_property
    def _blocks(self) -> np.ndarray:
        length = len(self.memories[0].row) + self.config.offset
        return rng(self.seed, self.order, "blocks").permutation(len(self.tokens) // length) * length

    def _block(self, k: int) -> tuple[int, ...]:
        length = len(self.memories[0].row) + self.config.offset
        if k >= len(self._blocks):
            raise UserError(
                f"The corpus has {len(self._blocks):,} rows of {length} tokens, and the stream needs more than {k:,}: "
                "use fewer occurrences, a higher density, or a larger corpus."
            )
        start = int(self._blocks[k])
        return tuple(self.tokens[start : start + length].tolist())

    def _with_bos(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        return ids if self.bos is None else (self.bos, *ids)
