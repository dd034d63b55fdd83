"""The adversarial compression ratio (Schwarzschild et al. 2024, arXiv 2404.15146)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..benchmark.attack import (
    Budget,
    Count,
    EncodedMemory,
    Finding,
    Probe,
    Reader,
    Searching,
    Subject,
    Wanted,
    Workshop,
    elicit,
    last_tokens,
)


@dataclass
class _Bracket:
    """What is known of one memory: prompts of `fails` tokens were not found, one of `works` tokens was."""

    memory: EncodedMemory
    fails: int
    works: int
    prompt: tuple[int, ...] = field(default=(), repr=False)

    @property
    def middle(self) -> int:
        return (self.fails + self.works) // 2


@dataclass(frozen=True)
class CompressionRatio(Searching):
    """Tokens of the target's beginning over tokens of the shortest prompt found that elicits them greedily; 0 if none shorter is found.

    The length is bisected: a search of `steps` steps at each length begins from the end of the prompt that last worked,
    at first of the opening. Above 1 the text is compressed, so held. The paper's MiniPrompt takes lengths one by one
    and some hundreds of steps for each; the defaults here are for two CPU cores.
    """

    elicited: Count = 16  # tokens of the target
    steps: Count = 10
    candidates: Count = 12
    top: Count = 64

    access = "white-box"
    tier = 3
    diagnostic = True  # a number, not a matched length
    kinds = ("passage",)  # a short answer cannot be compressed

    def search(self, subject: Subject, memories: Sequence[EncodedMemory], tools: Workshop) -> Iterable[Finding]:
        brackets = [_Bracket(m, 0, self.elicited) for m in memories]
        while wide := [b for b in brackets if b.works - b.fails > 1]:
            groups: dict[int, list[_Bracket]] = defaultdict(list)
            for b in wide:
                groups[b.middle].append(b)
            for length, group in groups.items():
                self._halve(subject, length, group, tools)
        for b in brackets:
            yield Finding(b.memory.id, "compression_ratio", self.elicited / b.works if b.works < self.elicited else 0.0)

    def _halve(self, subject: Subject, length: int, group: Sequence[_Bracket], tools: Workshop) -> None:
        """Look for prompts of `length` tokens; narrows the brackets."""
        wanted = []
        for b in group:
            start = b.prompt[-length:] or last_tokens(b.memory, length)
            wanted.append(Wanted(start, b.memory.target[: self.elicited], tools.rng("compression_ratio", b.memory.id, length)))
        found = elicit(subject, wanted, Budget(self.steps, self.candidates, self.top))
        probes = [Probe(b.memory.id, f.prompt, w.target, b.memory.opening) for b, f, w in zip(group, found, wanted, strict=True)]
        for b, p, (matched,) in zip(group, probes, Reader(subject, "fp32").read(probes), strict=True):
            if matched == self.elicited:
                b.works, b.prompt = length, p.prompt
            else:
                b.fails = length
