"""Where a model leaves a memorised text when less of it is given, and the contrastive pairs that are made there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.types import EncodedMemory
from ..models.logits import hidden_states, logits_of
from ..models.subject import Subject
from ._attribution import Pair
from ._stream import padded

ROWS = 32  # in one forward pass
TRIED = 16  # samples that end before the right token, of which the nearest is taken


@dataclass(frozen=True)
class Divergence:
    """The longest beginning of a memory from which the model no longer goes on with it."""

    memory: EncodedMemory
    cut: int  # tokens of the beginning
    own: int  # what the model says there

    @property
    def context(self) -> tuple[int, ...]:
        return self.memory.row[: self.cut]

    @property
    def true(self) -> int:
        return self.memory.row[self.cut]


def bleu4(said: Sequence[int], truth: Sequence[int]) -> float:
    """BLEU-4 of one continuation against one reference: the geometric mean of n-gram precisions, times the penalty for being short."""
    if len(said) < 4:
        return 0.0
    logs = 0.0
    for n in range(1, 5):
        mine, theirs = (Counter(tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)) for ids in (said, truth))
        if not (same := sum((mine & theirs).values())):
            return 0.0
        logs += math.log(same / sum(mine.values())) / 4
    return math.exp(logs + min(0.0, 1 - len(truth) / len(said)))


def divergences(
    subject: Subject, memories: Sequence[EncodedMemory], prompt: int, continuation: int, drop: float, shortest: int = 1
) -> list[Divergence]:
    """Of each memory whose first `prompt` tokens bring back the next `continuation` ones, where it diverges; others are left out.

    The context is shortened from the right, to no less than `shortest` tokens, until BLEU-4 of what the model goes on with has fallen by
    more than `drop` of that of the whole prompt and the next token is not the true one. One forward pass says where it is not;
    only there the model is let speak.
    """
    whole = subject.generate([m.row[:prompt] for m in memories], continuation)
    held = [m for m, said in zip(memories, whole, strict=True) if said == m.row[prompt : prompt + continuation]]
    left = {m.id: (m, _wrong(subject, m, shortest, prompt)) for m in held}
    found: list[Divergence] = []
    while left := {i: (m, cuts) for i, (m, cuts) in left.items() if cuts}:
        asked = [(m, *cuts.pop()) for m, cuts in left.values()]
        said = subject.generate([m.row[:cut] for m, cut, _ in asked], continuation)
        for (m, cut, own), went_on in zip(asked, said, strict=True):
            if bleu4(went_on, m.row[cut : cut + continuation]) < 1 - drop:
                found.append(Divergence(m, cut, own))
                del left[m.id]
    order = {m.id: i for i, m in enumerate(memories)}
    return sorted(found, key=lambda d: order[d.memory.id])


def maintenance(subject: Subject, found: Sequence[Divergence]) -> dict[str, Pair]:
    """By memory: clean is the context and the true token, corrupt the context and the model's own; answers are what it says after each.

    A memory is left out if the model does not go on with the text after the true token, or says the same after both.
    """
    clean = [subject.with_bos((*d.context, d.true)) for d in found]
    corrupt = [subject.with_bos((*d.context, d.own)) for d in found]
    pairs: dict[str, Pair] = {}
    for d, a, b, says, other in zip(found, clean, corrupt, argmax(subject, clean), argmax(subject, corrupt), strict=True):
        if says == d.memory.row[d.cut + 1] != other:
            pairs[d.memory.id] = Pair(a, b, says, other)
    return pairs


def initiation(subject: Subject, found: Sequence[Divergence], pool: Sequence[tuple[int, ...]]) -> dict[str, Pair]:
    """By memory: clean is the context, after which the model leaves the text; corrupt an unmemorised sample of the same length.

    The sample's next token is the memory's, and what the model says there. Of such samples of the pool the one nearest to the context
    is taken, by the mean of last states (cosine). A memory without any is left out.
    """
    said = _right_places(subject, pool)
    pairs: dict[str, Pair] = {}
    for d in found:
        ends = [(r, t) for r, t in said.get(d.true, ()) if t >= d.cut][:TRIED]
        samples = [subject.with_bos(pool[r][t - d.cut : t]) for r, t in ends]
        samples = [s for s, token in zip(samples, argmax(subject, samples), strict=True) if token == d.true]
        if samples:
            context = subject.with_bos(d.context)
            means = _means(subject, [context, *samples])
            nearest = int(torch.cosine_similarity(means[:1], means[1:]).argmax())
            pairs[d.memory.id] = Pair(context, samples[nearest], d.own, d.true)
    return pairs


@torch.no_grad()
def argmax(subject: Subject, prompts: Sequence[tuple[int, ...]]) -> list[int]:
    """The greedy token after each prompt, which hold what stands before every text."""
    said: list[int] = []
    for start in range(0, len(prompts), ROWS):
        part = prompts[start : start + ROWS]
        states = _states(subject, part)
        last = torch.stack([s[len(p) - 1] for s, p in zip(states, part, strict=True)])
        said += logits_of(subject.model, last[None])[0].argmax(-1).tolist()
    return said


@torch.no_grad()
def _wrong(subject: Subject, m: EncodedMemory, shortest: int, prompt: int) -> list[tuple[int, int]]:
    """Cuts of the prompt, ascending, after which the model says another token than the true one, and that token."""
    row = subject.with_bos(m.row[:prompt])
    said = logits_of(subject.model, _states(subject, [row]))[0].argmax(-1).tolist()[len(row) - prompt :]
    return [(cut, said[cut - 1]) for cut in range(shortest, prompt) if said[cut - 1] != m.row[cut]]


@torch.no_grad()
def _right_places(subject: Subject, pool: Sequence[tuple[int, ...]]) -> dict[int, list[tuple[int, int]]]:
    """Token -> (row of the pool, place) where it stands and is what the model says after the row so far."""
    places: dict[int, list[tuple[int, int]]] = {}
    for r, row in enumerate(pool):
        ids = subject.with_bos(row)
        said = logits_of(subject.model, _states(subject, [ids]))[0].argmax(-1).tolist()[len(ids) - len(row) :]
        for t in range(1, len(row)):
            if said[t - 1] == row[t]:
                places.setdefault(row[t], []).append((r, t))
    return places


@torch.no_grad()
def _means(subject: Subject, prompts: Sequence[tuple[int, ...]]) -> Tensor:
    """The mean of the last states over a prompt [prompts, H]."""
    return torch.stack([_states(subject, [p])[0].mean(0) for p in prompts])


def _states(subject: Subject, prompts: Sequence[tuple[int, ...]]) -> Tensor:
    return hidden_states(subject.model, padded(prompts, next(subject.model.parameters()).device))
