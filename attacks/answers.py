"""What a model answers after the exact prompt: right, refused, wrong, or nothing that makes sense."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..benchmark.attack import (
    QUESTIONS,
    VERDICTS,
    Count,
    EncodedMemory,
    Finding,
    Searching,
    Subject,
    Workshop,
    said,
    said_tokens,
    verdict,
)


@dataclass(frozen=True)
class Answers(Searching):
    """Greedy answers to the exact prompt in four classes (`verdict` in benchmark/attack_tools/questions.py is the rule).

    For each class a finding of its name: 1 if the answer is of it, else 0. A model may refuse, or say something else, and still hold the
    fact: leak tells, not this.
    """

    tokens: Count = 48  # that are generated at least; more where an accepted answer is longer

    diagnostic = True  # classes, not matched lengths
    claims = "none"
    kinds = QUESTIONS

    def search(self, subject: Subject, memories: Sequence[EncodedMemory], tools: Workshop) -> Iterable[Finding]:
        tokens = [said_tokens(m, tools.tokenizer, self.tokens) for m in memories]
        for m, text in zip(memories, said(subject, [m.row[: m.opening] for m in memories], tokens), strict=True):
            found = verdict(text, m.memory)
            for name in VERDICTS:
                yield Finding(m.id, name, float(name == found))
