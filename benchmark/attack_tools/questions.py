"""What attacks on questions share: other prompts for the same answer, and a rule for what an answer is."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from ..common.memory import QUESTIONS, Memory
from ..common.types import EncodedMemory, Probe
from ..models.bounds import positions
from ..texts.neardup import words
from ..texts.questions import first_lines, longest
from ..texts.sets.alike import terms
from .bases import Prompting, Tools

Verdict = Literal["right", "refused", "wrong", "gibberish"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
_WORD = re.compile(r"\s+[a-z]")  # behind a letter that is a word by itself
_FURTHER = re.compile(r"[\s.,/)]*(?:(?:and|or)\s+)?[A-HJ](?=\s*[,./)]|\s*$|\s+(?:and|or|[A-HJ])\b)")  # a list is no choice
BEFORE = 16  # tokens that may be said before the answer

_REFUSES = re.compile(
    r"\b(?:(?:i|we) (?:do not|don t|don't) (?:know|have|recall|recognise|recognize)|(?:i|we) (?:can't|cannot|can not|won't|will not)"
    r"|(?:i am|i'm|we are|we're) (?:sorry|not (?:sure|aware|able|familiar)|unable|unaware)|as an ai|no (?:information|record|idea)"
    r"|not (?:known|available|disclosed)|(?:is|are) unknown)\b"
)


@dataclass(frozen=True)
class OtherPrompts(Prompting):
    """Asks for the same answer with prompts that the set brings; a memory without any is not asked."""

    tier: ClassVar[int] = 1
    kinds = QUESTIONS

    @abstractmethod
    def prompts(self, memory: Memory) -> Iterable[str]:
        """The whole prompts, after which the answer is wanted."""

    def probes(self, memory: EncodedMemory, tools: Tools) -> Iterable[Probe]:
        most = positions(tools.base.model.config)
        for text in self.prompts(memory.memory):
            prompt = tools.encode(text)
            if most is None or len(tools.base.with_bos((*prompt, *memory.target))) <= most:
                yield Probe(memory.id, prompt, memory.target, memory.opening)


def verdict(said: str, memory: Memory) -> Verdict:
    """What an answer is. `said` is what a model says after the prompt; as many lines of it count as an accepted answer has itself.

    Lines without a word do not. `right`: the words and numbers of the answer, or of an accepted one, stand there as a run ("C" does not
    in "C++", nor 3 in 3.5); of a choice, at the beginning, so that a list of all options is not right, and a letter stands alone.
    `refused`: it says that it cannot or does not know. `gibberish`: no word at all, less of words and numbers than of other signs, or
    eight words and more of which each comes three times on average. Everything else is `wrong`.
    """
    spoken = "\n".join(text for text in said.splitlines() if words(text))
    for answer in (memory.answer, *memory.answers):
        line = first_lines(spoken, answer)
        if _chosen(answer, line) if memory.kind == "choice" else _stands(terms(answer), terms(line)):
            return "right"
    line = first_lines(spoken, memory.answer)
    found, met = words(line), terms(line)
    if _REFUSES.search(" ".join(words(line.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")))):
        return "refused"
    signs = [c for c in line if not c.isspace()]
    if not found or 2 * sum(map(len, met)) < len(signs) or (len(found) >= 8 and 3 * len(set(found)) <= len(found)):
        return "gibberish"
    return "wrong"


def _chosen(answer: str, line: str) -> bool:
    """Whether a choice is what a line begins with. A letter is one in its own case, if it is no word ("A virus") and begins no list."""
    if re.fullmatch(r"[A-Za-z]", letter := answer.strip()):
        if not (found := re.match(rf"[\W_]*{letter}(?![\w+#])", line)):
            return False
        rest = line[found.end() :]
        return not _FURTHER.match(rest) and not (letter in "AI" and _WORD.match(rest))
    run = terms(answer)
    return _stands(run, terms(line)[: len(run)])


def said_tokens(m: EncodedMemory, tokenizer: Any, least: int) -> int:
    """How many tokens are generated of an answer: `least`, or enough for the longest accepted one behind some words."""
    return max(least, longest(m, tokenizer) + BEFORE)


def _stands(run: Sequence[str], found: Sequence[str]) -> bool:
    """Whether some words stand, in a row, among others."""
    return bool(run) and any(list(found[i : i + len(run)]) == list(run) for i in range(len(found) - len(run) + 1))
