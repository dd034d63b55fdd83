"""The opening with words replaced by their neighbours in the base model's embedding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..benchmark.attack import WORD, Count, EncodedMemory, Options, Substitution, Tools, fitting, once_per_model, whole_words


@dataclass(frozen=True)
class EmbeddingNeighbours(Substitution):
    """The opening with words replaced by mutual neighbours in the base model's embedding; the same target follows.

    Only words of one token are replaced. Black-box: the embedding is the *base* model's, never that of the one attacked.
    """

    near: Count = 8  # neighbours of a word that are looked at

    def options(self, memory: EncodedMemory, tools: Tools) -> Options:
        opening, others = memory.memory.opening, neighbours(tools, self.near)
        spots = [m for m in WORD.finditer(opening) if opening[: m.start()].endswith(" ") and m.group() in others]
        return [(spot, fitting(others[spot.group()], spot.group())) for spot in spots]


@once_per_model
@torch.no_grad()
def neighbours(tools: Tools, near: int) -> dict[str, tuple[str, ...]]:
    """Word -> the words among its `near` nearest that have it among theirs, the nearest first.

    Near is a large cosine between input embeddings from which the mean over all these words was subtracted.
    """
    words = whole_words(tools)
    rows = tools.base.model.get_input_embeddings().weight[list(words)].float()
    rows = F.normalize(rows - rows.mean(0))
    nearest: list[list[int]] = []
    for start in range(0, len(rows), 1024):
        cosine = rows[start : start + 1024] @ rows.T
        cosine[torch.arange(len(cosine)), torch.arange(start, start + len(cosine))] = -torch.inf
        nearest += cosine.topk(min(near, len(rows) - 1)).indices.tolist()
    names = list(words.values())
    return {names[a]: tuple(names[b] for b in others if a in nearest[b]) for a, others in enumerate(nearest)}
