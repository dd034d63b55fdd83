"""The opening with words replaced by what the base model finds likely in their place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..benchmark.attack import (
    WORD,
    Count,
    EncodedMemory,
    Options,
    Substitution,
    Tools,
    fitting,
    hidden_states,
    logits_of,
    substitute,
    whole_words,
)


@dataclass(frozen=True)
class BaseSubstitution(Substitution):
    """The opening with words replaced by what the base model finds likely there; the same target follows.

    Some words are drawn. For each the `top` likeliest tokens after the words before it are looked at; those that are whole words
    of the same case are ranked by how likely the whole opening is with them, so what follows counts as much as what
    went before. Black-box: all of it is asked of the *base* model, never of the one attacked.
    """

    words: Count = 6  # how many words of the opening get candidates
    top: Count = 20

    def options(self, memory: EncodedMemory, tools: Tools) -> Options:
        opening = memory.memory.opening
        spots = [m for m in WORD.finditer(opening) if opening[: m.start()].endswith(" ")]
        random = tools.rng("base_substitution", "words", memory.id)
        chosen = [spots[i] for i in sorted(random.permutation(len(spots))[: self.words])]
        written = [(spot, new) for spot, others in zip(chosen, self.likely(opening, chosen, tools), strict=True) for new in others]
        nats = whole_nats([substitute(opening, [change]) for change in written], tools)
        ranked = [written[i] for i in np.argsort(nats, kind="stable")]
        return [(spot, [new for place, new in ranked if place is spot]) for spot in chosen]

    @torch.no_grad()
    def likely(self, opening: str, spots: Sequence[re.Match[str]], tools: Tools) -> list[list[str]]:
        """For each word, whole words of its case among the `top` tokens that the base model expects after what stands before it."""
        words, ids = whole_words(tools), tools.encode(opening)
        before = [tools.encode(opening[: spot.start() - 1]) for spot in spots]
        at = [len(tools.base.with_bos(b)) - 1 if b == ids[: len(b)] else -1 for b in before]  # where the word is predicted from
        model = tools.base.model
        states = hidden_states(model, torch.tensor([tools.base.with_bos(ids)], device=model.device))[0]
        logits = logits_of(model, states)
        found = []
        for spot, place in zip(spots, at, strict=True):
            tops = logits[place].topk(self.top).indices.tolist() if place >= 0 else []
            found.append(fitting((words[i] for i in tops if i in words), spot.group()))
        return found


def whole_nats(texts: Sequence[str], tools: Tools) -> list[float]:
    """-log p of each whole text under the base model, in nats."""
    scored = [len(tools.base.with_bos(tools.encode(t))) - 1 for t in texts]
    return [n * mean for n, mean in zip(scored, tools.nats_per_token(texts), strict=True)]
