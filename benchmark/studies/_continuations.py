"""Greedy continuations of memories from a boundary, and what the model held inside while it made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..common.errors import UserError
from ..common.types import EncodedMemory
from ..models.logits import hidden_states, logits_of, route
from ..models.subject import Subject
from ..running.plan import Run
from ..study import Lab

DOSES = (1, 2, 4, 8, 16, 24)  # injections of a memory, in turn: so there are memorised, half-memorised and unmemorised ones
TOKENS, LOGITS = 2**14, 2**26  # read at a time, and made of them: of a large vocabulary fewer tokens are read


def dosed(lab: Lab, model: str, occurrences: Sequence[int], methods: Mapping[str, Mapping[str, Any]] | None = None) -> Run:
    """A run of which memories were injected so many times, in turn; `model` may name a revision behind an @."""
    name, _, revision = model.partition("@")
    return lab.run(methods, model=name, revision=revision or None, track="", injection={"occurrences": tuple(occurrences)})


def same_tokens(runs: Sequence[Run]) -> None:
    """Models whose texts are compared token by token need one tokenizer."""
    for run in runs[1:]:
        if run.base.encoding != runs[0].base.encoding:
            raise UserError(f"{run.suite.model} and {runs[0].suite.model} have different tokenizers; scores by token cannot be compared.")


@dataclass(frozen=True)
class Continuation:
    """What a model says of a memory after `context` tokens that end at `boundary`, and the truth."""

    memory: EncodedMemory = field(repr=False)
    boundary: int
    context: int
    said: tuple[int, ...] = field(repr=False)

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.memory.row[self.boundary - self.context : self.boundary]

    @property
    def right(self) -> np.ndarray:
        """Whether each token is the true one [n]."""
        truth = self.memory.row[self.boundary : self.boundary + len(self.said)]
        return np.array(self.said) == np.array(truth)

    def score(self, length: int) -> float:
        """The memorisation score of the first `length` tokens (Chen et al. 2024)."""
        return float(self.right[:length].mean())


def continuations(subject: Subject, memories: Sequence[EncodedMemory], boundary: int, context: int, length: int) -> list[Continuation]:
    """Of each memory, by greedy decoding of `length` tokens."""
    if context > boundary or any(len(m.row) < boundary + length for m in memories):
        raise UserError(f"{context} tokens of context and {length} of continuation do not fit around token {boundary}; raise row.")
    said = subject.generate([m.row[boundary - context : boundary] for m in memories], length)
    return [Continuation(m, boundary, context, s) for m, s in zip(memories, said, strict=True)]


@torch.no_grad()
def inside(subject: Subject, rows: Sequence[tuple[int, ...]], count: int) -> tuple[np.ndarray, np.ndarray]:
    """States [B, count, H] from which the last `count` tokens of rows of one length are said, and entropies [B, count] in nats."""
    device, states, entropies = next(subject.model.parameters()).device, [], []
    size = max(1, min(TOKENS, LOGITS // route(subject.model).vocabulary) // len(rows[0]))
    for start in range(0, len(rows), size):
        ids = torch.tensor([subject.with_bos(r) for r in rows[start : start + size]], device=device)
        found = hidden_states(subject.model, ids)[:, -count - 1 : -1]
        log_p = logits_of(subject.model, found).float().log_softmax(-1)
        states.append(found.float().cpu().numpy())
        entropies.append(-(log_p.exp() * log_p).sum(-1).cpu().numpy())
    return np.concatenate(states), np.concatenate(entropies)


def class_of(score: float) -> str:
    """Memorised, half or unmemorised by a score; "" in between."""
    return "memorised" if score >= 1 else "half" if 0.4 < score <= 0.6 else "unmemorised" if score <= 0.2 else ""
