"""What an attack is. Prompting attacks write probes and never touch the model: the battery asks and grades."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch

from .losses import sequence_nll
from .seeds import rng
from .subject import Subject
from .training import collate
from .types import Access, EncodedMemory, Probe, Row

__all__ = ["Attack", "EncodedMemory", "Probe", "Prompting", "Tools"]


@dataclass
class Tools:
    """What an attack may use while it writes probes: the tokenizer, seeded draws, and the *base* model's judgement."""

    base: Subject
    seed: int = 0
    _known: dict[tuple[int, ...], float] = field(default_factory=dict, repr=False)

    @cached_property
    def tokenizer(self) -> Any:
        return self.base.tokenizer

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text alone, without special tokens."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def round_trips(self, text: str) -> bool:
        return self.tokenizer.decode(self.encode(text), clean_up_tokenization_spaces=False) == text

    def rng(self, *purpose: str):
        return rng(self.seed, "attack", *purpose)

    @torch.no_grad()
    def nats_per_token(self, texts: Sequence[str]) -> list[float]:
        """Mean -log p per token of each text under the base model; never the model under attack."""
        rows = [Row(self.base.with_bos(self.encode(t))) for t in texts]
        new = sorted({r.ids for r in rows if r.ids not in self._known}, key=len)
        for start in range(0, len(new), 64):
            part = [Row(ids) for ids in new[start : start + 64]]
            group = collate(part, slice(None), next(self.base.model.parameters()).device)
            for row, nll in zip(part, sequence_nll(self.base.model, group).tolist(), strict=True):
                self._known[row.ids] = nll / max(1, row.scored)
        return [self._known[r.ids] for r in rows]


class Attack:
    """Tries to recover memories. A plug-in is a frozen dataclass in a file of its own; the file's name is the attack's."""

    access: ClassVar[Access] = "black-box"
    tier: ClassVar[int] = 0


class Prompting(Attack, ABC):
    """Writes probes for a memory; what comes of them is read off by the battery."""

    @abstractmethod
    def probes(self, memory: EncodedMemory, tools: Tools) -> Iterable[Probe]:
        """The questions to ask about this memory. Targets are ids of `memory.row`; prompts are ids of any text."""
