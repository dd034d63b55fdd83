"""One model of a run, as its stages and records know it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..common.types import HELD, TWIN, EncodedMemory
from .store import Stage


@dataclass(frozen=True)
class Model:
    """A model in one seed: the base, the held one (`none`), the retrained twin, or what a method made of the held one.

    `stage` is the one whose folder holds it. The base model and models that were made elsewhere, which no stage makes, have none, but a
    `place`. `key` stands for the model in keys and records: that of its stage, or the hash of its files.
    """

    name: str
    seed: int
    key: str
    stage: Stage | None = field(default=None, repr=False, compare=False)
    place: Path | None = field(default=None, repr=False, compare=False)
    memories: Sequence[EncodedMemory] = field(default=(), repr=False, compare=False)

    @property
    def null(self) -> bool:
        """Whether it is one of the two, held and twin, whose answers about memories that they never saw make the null."""
        return self.name in (HELD, TWIN)

    @property
    def label(self) -> str:
        """Its name in messages."""
        return f"{self.name}, seed {self.seed}" if self.stage else self.name
