"""What attacks with other wordings of the opening share: which wordings are kept, which words can be replaced, what fits."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..common.limits import CountOrZero, Positive
from ..common.types import EncodedMemory, Memory, Probe
from ..models.bounds import positions
from ..models.logits import hidden_states, logits_of, route
from ..texts.neardup import overlap
from .bases import Prompting, Tools
from .synonyms import ARTICLES, cased, substitute

RUN = 5  # words in a row that a prompt may not share with what follows the opening

_SPACED = re.compile(r" (?:[A-Za-z]{2,}|[aI])")  # a token that could be a word after a space

Options = Sequence[tuple[re.Match[str], Sequence[str]]]  # words of a text, each with its alternatives, the closest first
_T = TypeVar("_T")


@dataclass(frozen=True)
class Rewording(Prompting):
    """Asks with other wordings of the opening; the same target follows.

    A wording is kept if it round-trips, its perplexity under the *base* model is at most `perplexity` times the
    opening's, and it shares no five-word run with the rest of the memory.
    """

    perplexity: Positive = 2.0

    tier: ClassVar[int] = 1

    @abstractmethod
    def texts(self, memory: EncodedMemory, tools: Tools) -> Iterable[tuple[str, str]]:
        """Pairs of a variant and a wording of the opening; what is not fit to be asked is dropped later."""

    def probes(self, memory: EncodedMemory, tools: Tools) -> Iterable[Probe]:
        for variant, text in self.kept(memory, tools):
            prompt = tools.encode(text)
            if fits(prompt, memory, tools):
                yield Probe(memory.id, prompt, memory.target, memory.opening, (0,), (variant,))

    def kept(self, memory: EncodedMemory, tools: Tools) -> Iterator[tuple[str, str]]:
        """Those of `texts` that are fit to be asked, each once."""
        opening = memory.memory.opening
        written: dict[str, str] = {}
        for variant, text in self.texts(memory, tools):
            if text and text != opening:
                written.setdefault(text, variant)
        kept = [t for t in written if tools.round_trips(t) and not gives_away(t, memory.memory)]
        limit = tools.nats_per_token([opening])[0] + math.log(self.perplexity)
        for text, nats in zip(kept, tools.nats_per_token(kept), strict=True):
            if nats <= limit:
                yield written[text], text


@dataclass(frozen=True)
class Substitution(Rewording):
    """Asks with one word of the opening, or a third of those that can be replaced, substituted."""

    singles: CountOrZero = 8  # wordings with one word replaced
    thirds: CountOrZero = 8  # wordings with a third of the words replaced

    @abstractmethod
    def options(self, memory: EncodedMemory, tools: Tools) -> Options:
        """The words of the opening that can be replaced, in their order, and by what."""

    def texts(self, memory: EncodedMemory, tools: Tools) -> Iterator[tuple[str, str]]:
        opening, options = memory.memory.opening, [(word, others) for word, others in self.options(memory, tools) if others]
        random = tools.rng(type(self).__name__, memory.id)

        def change(which: Iterable[int]) -> str:
            drawn = [min(int(random.exponential(0.8)), len(options[i][1]) - 1) for i in which]  # the closest most often
            return substitute(opening, [(options[i][0], options[i][1][d]) for i, d in zip(which, drawn, strict=True)])

        for i in random.permutation(len(options))[: self.singles]:
            yield "single", change([i])
        for _ in range(self.thirds if options else 0):
            yield "third", change(sorted(random.choice(len(options), math.ceil(len(options) / 3), replace=False)))


def fitting(words: Iterable[str], old: str) -> list[str]:
    """Those of some words that can stand for `old`: another word (a and an are one), in the same case."""
    same = ARTICLES if old.lower() in ARTICLES else (old.lower(),)
    return [w for w in words if w.lower() not in same and w == cased(w.lower(), old)]


def gives_away(text: str, memory: Memory) -> bool:
    """Does a text share five words in a row with what follows the memory's opening?"""
    return overlap([text], [memory.text[memory.opening_end :]], RUN)[0] > 0


def fits(prompt: Sequence[int], memory: EncodedMemory, tools: Tools) -> bool:
    """Do a prompt and the memory's target fit into the base model's context?"""
    most = positions(tools.base.model.config)
    return most is None or len(tools.base.with_bos((*prompt, *memory.target))) <= most


def led_by(text: str, memory: EncodedMemory, tools: Tools) -> tuple[int, ...]:
    """A text and the exact opening after it, tokenised as one unless that would change the opening's own ids."""
    own = memory.row[: memory.opening]
    whole = tools.encode(text + memory.memory.opening)
    return whole if whole[-len(own) :] == own else tools.encode(text) + own


def once_per_model(compute: Callable[..., _T]) -> Callable[..., _T]:
    """Keep what a function of (tools, …) finds out about a base model for as long as that model is loaded."""
    kept: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], _T]] = WeakKeyDictionary()

    @wraps(compute)
    def found(tools: Tools, *given: Any) -> _T:
        known = kept.setdefault(tools.base.model, {})
        if given not in known:
            known[given] = compute(tools, *given)
        return known[given]

    return found


@once_per_model
@torch.no_grad()
def whole_words(tools: Tools) -> dict[int, str]:
    """Token id -> word, for tokens that are an English word after a space and not the beginning of a longer one.

    The judge is the base model: shown the token alone, it gives less than half its probability to letters.
    """
    lead = tools.encode("a")
    pieces = [tools.decode((*lead, i))[1:] for i in range(min(len(tools.tokenizer), route(tools.base.model).vocabulary))]
    ids = [i for i, piece in enumerate(pieces) if _SPACED.fullmatch(piece)]
    model = tools.base.model
    letters = torch.tensor([piece[:1].isalpha() for piece in pieces], device=model.device)
    whole = {}
    for start in range(0, len(ids), 512):
        part = ids[start : start + 512]
        states = hidden_states(model, torch.tensor([tools.base.with_bos((i,)) for i in part], device=model.device))
        says = logits_of(model, states[:, -1]).float().softmax(-1)[:, : len(pieces)]
        whole |= {i: pieces[i][1:] for i, p in zip(part, says[:, letters].sum(-1).tolist(), strict=True) if p < 0.5}
    return whole
