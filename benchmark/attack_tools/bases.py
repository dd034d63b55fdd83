"""What an attack is. There are four bases; only a searching attack reports lengths of its own.

`Prompting` writes probes and never touches the model; `Membership` turns what one pass says about each token into a
score; `Searching` has a loop of its own; `Tampering` changes the model, and the battery asks the changed model again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from ..common.memory import KINDS, Kind
from ..common.seeds import rng
from ..common.types import Access, Answer, EncodedMemory, Finding, Probe, Questions, Row, TokenReading
from ..models.subject import Subject
from ..training.batches import collate
from ..training.losses import sequence_nll
from ..training.trainer import Trainer

# "greedy": the model says so many tokens after the prompt. "beam": so many stay among the `width` beams of a search. "sample": so many
# can be drawn from the `width` likeliest tokens. "none": no prompt of tokens gives it again; for diagnostics only.
Claims = Literal["greedy", "beam", "sample", "none"]


@dataclass
class Tools:
    """What an attack may use while it writes probes: the tokenizer, seeded draws, and the *base* model's judgement."""

    base: Subject
    seed: int = 0
    known: Sequence[EncodedMemory] = ()  # shown keep memories: texts that an attacker may know to have been in the training
    _known: dict[tuple[int, ...], float] = field(default_factory=dict, repr=False)

    @cached_property
    def tokenizer(self) -> Any:
        return self.base.tokenizer

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text alone, without special tokens."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def round_trips(self, text: str) -> bool:
        return self.decode(self.encode(text)) == text

    def rng(self, *purpose: Any):
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


@dataclass
class Workshop(Tools):
    """What searching and tampering attacks may use besides: ordinary text, training, and the models to compare with.

    `held` and `twin` are handles; an attack must not change them. Attacks that read them are diagnostics by nature.
    """

    retain: Callable[[int], Row] = field(default=lambda k: Row(()), repr=False)  # row k of an endless supply of ordinary text
    trainer: Callable[[str], Trainer] = field(default=lambda purpose: Trainer(), repr=False)
    tokens: Mapping[str, TokenReading] = field(default_factory=dict, repr=False)  # of the model under attack, by memory
    held: Subject | None = None
    twin: Subject | None = None
    precision: str = "auto"


class Attack:
    """Tries to recover memories. A plug-in is a frozen dataclass in a file of its own; the file's name is the attack's."""

    access: ClassVar[Access] = "black-box"
    tier: ClassVar[int] = 0
    diagnostic: ClassVar[bool] = False  # shown beside the table: never in the worst case, never in leak
    asks: ClassVar[Questions] = {}  # what its variants ask with, where flags and scores need to know it
    kinds: ClassVar[tuple[Kind, ...]] = KINDS  # of memories that it can be asked about; about others it says that it does not apply
    compares: ClassVar[bool] = False  # whether it needs the retrained twin to compare with; without one it does not apply

    def reads(self) -> Iterable[Path]:
        """Files and folders whose content the result depends on, besides what is given: their hash becomes part of keys."""
        return ()


class Prompting(Attack, ABC):
    """Writes probes for a memory; what comes of them is read off by the battery."""

    everyone: ClassVar[bool] = False  # True: asked about every memory of every model; else where it is scored and where nothing was held

    @property
    def asks_exactly(self) -> bool:
        """Whether one of its questions is the exact opening; it is asked about keep memories too, since what these lose is collateral."""
        return "exact" in self.asks.values()

    @abstractmethod
    def probes(self, memory: EncodedMemory, tools: Tools) -> Iterable[Probe]:
        """The questions to ask about this memory. Targets are ids of `memory.row`; prompts are ids of any text."""


class Membership(Attack, ABC):
    """Says how likely it is that a model was trained on a memory: AUC only, never part of leak."""

    access: ClassVar[Access] = "grey-box"
    quantity: ClassVar[str] = ""  # what the score is, if flags or tables know it: "loss" or "sampling"; else the attack's own name

    @abstractmethod
    def score(self, memory: EncodedMemory, tokens: TokenReading, reference: TokenReading) -> float:
        """Higher means more likely a member. `reference` is the retrained twin's reading of the same row."""


class Searching(Attack, ABC):
    """Looks for the text with a loop of its own: beam search, optimised prompts, exposure."""

    tier: ClassVar[int] = 2
    claims: ClassVar[Claims] = "greedy"  # what a length of its answers means, and so how a sample of them is read again

    @abstractmethod
    def search(self, subject: Subject, memories: Sequence[EncodedMemory], tools: Workshop) -> Iterable[Answer | Finding]:
        """What came back of each memory. The result for a memory must not depend on the others it is asked with."""


@dataclass(frozen=True)
class Changed:
    """A changed model. The battery asks it again with the prompting attacks, or only with the exact opening."""

    subject: Subject
    dose: str  # names the change in records: int4, 20%, 50% lora …; may be empty where a step says enough
    step: int = -1  # of a trajectory, with `only_opening`
    only_opening: bool = False  # True: a point of a trajectory, whose matched lengths become findings of that dose and step
    covered: float | None = None  # share of the body's weights that a change of all matrices reached; it becomes a finding of that name


class Tampering(Attack, ABC):
    """Changes the model: quantisation, fine-tuning, pruning, relearning. It never asks."""

    access: ClassVar[Access] = "weights"
    tier: ClassVar[int] = 2
    learns: ClassVar[bool] = False  # True: is given half of the forget memories, and the other half is scored; then crosswise

    @abstractmethod
    def tamper(self, subject: Subject, relearned: Sequence[Row], tools: Workshop) -> Iterable[Changed | Finding]:
        """Changed copies of `subject`, which must not be changed itself. `relearned` is empty unless the class `learns`."""
