"""Exposure: how far the true text stands out among texts like it (Carlini et al. 2019, arXiv 1802.08232)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..benchmark.attack import (
    CONFIGS,
    WORD,
    Count,
    Decoding,
    EncodedMemory,
    Finding,
    Searching,
    Subject,
    Tools,
    Workshop,
    substitute,
    synonyms,
)


@dataclass(frozen=True)
class Slot:
    """A place in a row, ids[begin:end], and what may stand there: the truth first, all of one length."""

    begin: int
    end: int
    choices: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Exposure(Searching):
    """Bits of exposure of the target's beginning among never-injected siblings: log2 |R| - log2 rank.

    Siblings differ from the text in words of the first `span` target tokens: synonyms of the project's table that take
    as many tokens, and words (where these are too few, as in code, tokens) that the base model finds plausible there. R
    holds the text and its siblings, ranked by their log-probability after the exact opening; of equals the text is
    last. Siblings are drawn from (seed, memory) and the base model only, so they are the same for every model.
    """

    texts: Count = 1000  # |R|
    span: Count = 32  # tokens
    each: Count = 3  # choices at a place, the truth among them
    last: Count = 16  # choices at the last place

    access = "grey-box"
    diagnostic = True  # a number, not a matched length
    kinds = ("passage",)  # siblings of a short answer are too few

    def reads(self) -> tuple[Path, ...]:
        return (CONFIGS / "synonyms.txt",)

    def search(self, subject: Subject, memories: Sequence[EncodedMemory], tools: Workshop) -> Iterable[Finding]:
        for m in memories:
            slots = self._slots(m, tools)
            texts = self._texts(m, slots, tools)
            ends = sorted({place - m.opening for s in slots for place in (s.begin, s.end)} - {0})
            score = log_probabilities(subject, m.row[: m.opening], texts, ends)
            rank = int((score >= score[0]).sum())  # the text itself counts
            yield Finding(m.id, "exposure", math.log2(len(texts)) - math.log2(rank))

    def _slots(self, m: EncodedMemory, tools: Tools) -> list[Slot]:
        """Places that allow enough siblings: the first ones with `each` choices, the last with up to `last`, apart from each other.

        What differs late is cheap: texts that share a beginning share its pass.
        """
        end = min(m.opening + self.span, len(m.row))
        known = list(_synonyms(m, end, tools))
        chosen: list[Slot] = []
        for words, wider in ((True, 1), (True, 4), (False, 1), (False, 16)):  # few words: more alternatives; in code: any token
            each, last = self.each * wider, self.last * wider
            wide = list(_plausible(m, end, last - 1, words, tools))
            chosen = []
            for s in sorted([*known, *wide], key=lambda s: (s.begin, -s.end)):
                if _count(chosen) * last < self.texts and _follows(s, chosen):
                    chosen.append(Slot(s.begin, s.end, s.choices[:each]))
            chosen += [s for s in wide if _follows(s, chosen)][:1]
            if _count(chosen) >= self.texts:
                break
        return chosen

    def _texts(self, m: EncodedMemory, slots: Sequence[Slot], tools: Tools) -> np.ndarray:
        """Ids [|R|, tokens] from the opening to the end of the last slot: the text, then its siblings."""
        sizes = [len(s.choices) for s in slots]
        others = _count(slots) - 1
        drawn = tools.rng("exposure", m.id).choice(others, min(self.texts - 1, others), replace=False) + 1
        texts = np.tile(np.array(m.row[m.opening : slots[-1].end if slots else m.opening + 1]), (len(drawn) + 1, 1))
        for slot, which in zip(slots, np.unravel_index(drawn, sizes) if slots else (), strict=True):
            texts[1:, slot.begin - m.opening : slot.end - m.opening] = np.array(slot.choices)[which]
        return texts


def _synonyms(m: EncodedMemory, end: int, tools: Tools) -> Iterator[Slot]:
    """Words of the target's beginning that have synonyms of as many tokens."""
    text, truth = m.memory.text, np.array(tools.encode(m.memory.text))
    for match in WORD.finditer(text, m.memory.opening_end):
        if len(tools.encode(text[: match.start()])) >= end:
            return
        written = [np.array(tools.encode(substitute(text, [(match, new)]))) for new in synonyms().get(match.group().lower(), ())]
        changed = [ids for ids in written if len(ids) == len(truth) and (ids != truth).any()]
        if not changed:
            continue
        places = np.flatnonzero(np.any([ids != truth for ids in changed], axis=0))
        first, last = int(places[0]), int(places[-1]) + 1
        if m.opening <= first and last <= end:
            yield Slot(first, last, tuple(dict.fromkeys(tuple(ids[first:last].tolist()) for ids in (truth, *changed))))


@torch.no_grad()
def _plausible(m: EncodedMemory, end: int, count: int, words: bool, tools: Tools) -> Iterator[Slot]:
    """Words of one token (or any tokens), and up to `count` others of their kind that the base model thinks likeliest there."""
    ids = torch.tensor([tools.base.with_bos(m.row[:end])], device=next(tools.base.model.parameters()).device)
    likely = tools.base.model(input_ids=ids).logits[0].topk(4 * count).indices.tolist()
    lead = ids.shape[1] - end
    for place in range(m.opening, end):
        follows = tools.decode(m.row[place + 1 : place + 2])
        if not words or (_is_word(tools.decode(m.row[place : place + 1])) and not follows[:1].isalpha()):
            others = [i for i in likely[place + lead - 1] if i != m.row[place] and (not words or _is_word(tools.decode((i,))))]
            yield Slot(place, place + 1, ((m.row[place],), *((i,) for i in others[:count])))


def _follows(slot: Slot, chosen: Sequence[Slot]) -> bool:
    return not chosen or slot.begin >= chosen[-1].end


def _count(slots: Sequence[Slot]) -> int:
    return math.prod(len(s.choices) for s in slots)


def _is_word(said: str) -> bool:
    return said[:1] == " " and said[1:].isalpha()


def log_probabilities(subject: Subject, prompt: tuple[int, ...], texts: np.ndarray, ends: Sequence[int]) -> np.ndarray:
    """Log-probability [R] of each text [R, tokens] after the prompt; a beginning that several share is read once.

    `ends` are the places where the texts part and come together, the last of them their length.
    """
    rows = Decoding(subject, prompt)
    score, node = np.zeros(1), np.zeros(len(texts), int)  # of every distinct beginning; which of these a text has
    begin, last = 0, np.zeros((1, 0), int)  # where the beginnings end; their last ids, not read yet
    for end in ends:
        if last.size:
            rows.read(torch.from_numpy(last))
        _, first, inverse = np.unique(texts[:, :end], axis=0, return_index=True, return_inverse=True)
        parent, piece = torch.from_numpy(node[first]), torch.from_numpy(texts[first, begin:end])
        found = _gather(rows.last[parent.to(rows.where), None], piece[:, :1])
        if end < ends[-1] or piece.shape[1] > 1:
            rows.choose(parent)
        if piece.shape[1] > 1:
            found += _gather(rows.read(piece[:, :-1]), piece[:, 1:])
        score, node, begin, last = score[parent.numpy()] + found, inverse.ravel(), end, piece[:, -1:].numpy()
    return score[node]


def _gather(logits: torch.Tensor, ids: torch.Tensor) -> np.ndarray:
    """Sum over the tokens of log p [n], from logits [n, k, V] and ids [n, k]."""
    found = logits.float().log_softmax(-1).gather(-1, ids.to(logits.device)[..., None])[..., 0]
    return found.double().sum(1).cpu().numpy()
