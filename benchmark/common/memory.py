"""A memory: a text that a model may have learnt by heart. It is a passage, or a question with its answer. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Role = Literal["forget", "keep", "unseen"]
Kind = Literal["passage", "qa", "choice"]
KINDS: tuple[Kind, ...] = get_args(Kind)
QUESTIONS: tuple[Kind, ...] = ("qa", "choice")
TEXTS = ("paraphrases", "answers", "wrong", "aliases", "two_hop")  # fields that hold several texts


@dataclass(frozen=True)
class Memory:
    """A passage, or a question and its answer. `text[:opening_end]` is the opening, the standard prompt.

    Of a question, text is prompt and answer, which meet at `opening_end`; of a `choice`, the prompt lists what can be chosen.
    """

    id: str
    domain: str
    text: str = field(repr=False)
    opening_end: int
    title: str = ""
    paraphrases: tuple[str, ...] = field(default=(), repr=False)  # rewordings of the opening, to be followed by the same target
    alternative: str = field(default="", repr=False)  # a different continuation of the opening
    version: int = 1
    kind: Kind = "passage"
    answers: tuple[str, ...] = field(default=(), repr=False)  # further ones that are accepted, as they would stand after the prompt
    wrong: tuple[str, ...] = field(default=(), repr=False)  # answers that are wrong
    aliases: tuple[str, ...] = field(default=(), repr=False)  # prompts that call by another name what is asked about
    two_hop: tuple[str, ...] = field(default=(), repr=False)  # prompts that lead to the answer through another fact
    chat: bool = False  # every prompt is what a user says in a chat, every answer a reply: see texts.questions.rendered
    role: Role | Literal[""] = ""  # that the set itself gives it; empty: roles are dealt

    @property
    def opening(self) -> str:
        return self.text[: self.opening_end]

    @property
    def answer(self) -> str:
        """What stands after the opening."""
        return self.text[self.opening_end :]

    @property
    def is_question(self) -> bool:
        return self.kind != "passage"

    @property
    def lists(self) -> bool:
        """Whether the prompt lists what can be chosen, so that an answer that stands in it is no copy."""
        return self.kind == "choice"


def memory_from(fields: Mapping[str, Any]) -> Memory:
    """A memory from its JSON object; unknown fields are ignored, so that the file can grow."""
    known: dict[str, Any] = {k: v for k, v in fields.items() if k in Memory.__dataclass_fields__}
    known |= {k: tuple(known.get(k, ())) for k in TEXTS}
    return Memory(**known)
