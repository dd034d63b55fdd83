"""Memories that are questions: what a file must say of them, how a chat model meets them, and their tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..common.errors import UserError
from ..common.memory import KINDS, TEXTS, Memory, Role
from ..common.types import HORIZON, EncodedMemory
from .sets.alike import alike, asked_alike

DATE = "1 January 2025"  # that templates are told which would write today's: a prompt is the same on every day
CLOCK = f"{{%- macro strftime_now(format) -%}}{DATE}{{%- endmacro %}}"  # in place of the function that a template may ask for the date


def joined(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a memory; `prompt` and `answer`, where they stand for text and opening_end, put together as they are."""
    if (kind := given.get("kind", "passage")) not in KINDS:
        raise UserError(f"{where}: kind={kind!r}: expected {', '.join(KINDS)}.")
    if "prompt" not in given or "answer" not in given:
        return dict(given)
    if kind == "passage" or {"text", "opening_end"} & given.keys():
        raise UserError(f"{where}: prompt and answer are for a question (kind qa or choice), in place of text and opening_end.")
    for name in ("prompt", "answer"):
        if not isinstance(given[name], str) or not given[name].strip():
            raise UserError(f"{where}: {name}={given[name]!r}: expected a text that is not empty.")
    return {**given, "text": given["prompt"] + given["answer"], "opening_end": len(given["prompt"])}


def require_whole(m: Memory, where: str) -> None:
    """Refuse what contradicts itself: fields of questions on a passage, a choice of one, an answer that is right and wrong."""
    if not m.is_question:
        if named := [k for k in TEXTS if k != "paraphrases" and getattr(m, k)] + ["chat"] * m.chat:
            raise UserError(f"{where}: {', '.join(named)} belong to a question; give it kind qa or choice.")
        return
    if not m.answer.strip():
        raise UserError(f"{where}: nothing stands after opening_end={m.opening_end}; expected the answer.")
    if m.kind == "choice" and not m.wrong:
        raise UserError(f"{where}: a choice needs wrong answers beside the right one.")
    right = {alike(a) for a in (m.answer, *m.answers)}
    if both := [a for a in m.wrong if alike(a) in right]:
        raise UserError(f"{where}: {both[0]!r} is among the wrong answers and is accepted.")


def rendered(m: Memory, tokenizer: Any) -> Memory:
    """A chat memory as the model of this tokenizer meets it; others as they are.

    Each prompt is a user's turn in the tokenizer's chat template, up to where the assistant speaks; without a template it becomes
    "Question: PROMPT\\nAnswer:", and answers begin with a space.
    """
    if not m.chat:
        return m
    ask, lead = _asking(tokenizer)
    more: dict[str, Any] = {k: tuple(map(ask, getattr(m, k))) for k in ("paraphrases", "aliases", "two_hop")}
    more |= {k: tuple(lead + a for a in getattr(m, k)) for k in ("answers", "wrong")}
    prompt = ask(m.opening)
    return replace(m, text=prompt + lead + m.answer, opening_end=len(prompt), chat=False, **more)


def _asking(tokenizer: Any) -> tuple[Callable[[str], str], str]:
    """How a user's turn is written for a tokenizer, and what stands before an answer."""
    if not getattr(tokenizer, "chat_template", None):
        return (lambda said: f"Question: {said}\nAnswer:"), " "
    ids = tokenizer("a")["input_ids"]
    first = tokenizer.bos_token if ids and ids[0] == tokenizer.bos_token_id else ""  # put before every text anyway

    def ask(said: str) -> str:
        turn = [{"role": "user", "content": said}]
        try:
            template = CLOCK + tokenizer.get_chat_template()
            text = tokenizer.apply_chat_template(turn, chat_template=template, tokenize=False, add_generation_prompt=True, date_string=DATE)
        except Exception as error:  # a template is a program of the tokenizer's, which may raise anything
            raise UserError(f"The tokenizer's chat template refuses a single user's turn ({str(error).splitlines()[0]}).") from None
        return text.removeprefix(first or "")

    return ask, ""


def needed(memory: Memory, tokenizer: Any) -> int:
    """The fewest tokens of a row that hold the prompt and the target."""
    m = rendered(memory, tokenizer)
    prompt = _ids(m.opening, tokenizer, m.id)
    return len(prompt) + min(HORIZON, len(answer_ids(m, prompt, m.answer, tokenizer)))


def encode_question(memory: Memory, tokenizer: Any, length: int, role: Role, shown: bool) -> EncodedMemory:
    """The prompt's tokens as a model meets them that is asked, and those that an answer then has; at most `length` tokens of both.

    Refuses what does not round-trip, and a prompt beside which the answer (or 64 tokens of it) does not fit.
    """
    m = rendered(memory, tokenizer)
    prompt = _ids(m.opening, tokenizer, m.id)
    answer, *others = (answer_ids(m, prompt, text, tokenizer) for text in (m.answer, *m.answers))
    if len(prompt) + min(len(answer), HORIZON) > length:
        sizes = f"prompt ({len(prompt)}) and answer ({len(answer)})"
        raise UserError(f"Memory {m.id!r}: {sizes} do not fit a row of {length} tokens; raise row, or leave it out.")
    row = (*prompt, *answer)[:length]
    accepted = dict.fromkeys(o[:HORIZON] for o in others if o[:HORIZON] != answer[:HORIZON])
    return EncodedMemory(m, role, shown, row, len(prompt), tokenizer.decode(row, clean_up_tokenization_spaces=False), tuple(accepted))


def answer_ids(m: Memory, prompt: tuple[int, ...], answer: str, tokenizer: Any) -> tuple[int, ...]:
    """What follows the prompt's tokens in those of prompt and answer; where the two would share a token, the answer's own.

    Tokenizers after SentencePiece put a space before every text, and would begin " A" with a token that no model says after "Answer:".
    """
    both = tuple(tokenizer(m.opening + answer, add_special_tokens=False)["input_ids"])
    follows = both[len(prompt) :]
    if both[: len(prompt)] != prompt or not follows or tokenizer.decode(both, clean_up_tokenization_spaces=False) != m.opening + answer:
        return _ids(answer, tokenizer, m.id)
    return follows


def unreadable(m: EncodedMemory, tokenizer: Any, length: int) -> str:
    """Why some answer of a question, right or wrong, cannot be read whole in a row of `length` tokens; empty if all can. Passages can."""
    prompt = m.row[: m.opening]
    for text in (m.memory.answer, *m.memory.answers, *m.memory.wrong) if m.memory.is_question else ():
        try:
            ids = answer_ids(m.memory, prompt, text, tokenizer)
        except UserError as error:
            return str(error)
        if len(prompt) + len(ids) > length:
            sizes = f"prompt ({len(prompt)}) and the answer {text[:40]!r} ({len(ids)})"
            return f"Memory {m.id!r}: {sizes} do not fit a row of {length} tokens; raise row, since other papers' measures read them whole."
    return ""


def longest(m: EncodedMemory, tokenizer: Any) -> int:
    """Tokens of the longest answer that is accepted; a row or a target may hold only the beginning of it."""
    prompt = m.row[: m.opening]
    return max(len(answer_ids(m.memory, prompt, text, tokenizer)) for text in (m.memory.answer, *m.memory.answers))


def first_lines(said: str, answer: str) -> str:
    """Of what is said after a question the first lines that are not empty: as many as the answer has."""
    return "\n".join(_lines(said)[: len(_lines(answer))])


def _lines(text: str) -> list[str]:
    return [line for line in text.strip().splitlines() if line.strip()]


def answers_follow(memories: Sequence[Memory], tokenizer: Any) -> bool:
    """Whether some answer has other tokens after its prompt than by itself: keys say so."""
    for m in (rendered(m, tokenizer) for m in memories if m.is_question):
        prompt = tuple(tokenizer(m.opening, add_special_tokens=False)["input_ids"])
        for text in (m.answer, *m.answers):
            if answer_ids(m, prompt, text, tokenizer) != tuple(tokenizer(text, add_special_tokens=False)["input_ids"]):
                return True
    return False


def _ids(text: str, tokenizer: Any, name: str) -> tuple[int, ...]:
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not ids or tokenizer.decode(ids, clean_up_tokenization_spaces=False) != text:
        raise UserError(f"Memory {name!r}: {text[:60]!r} does not round-trip through this tokenizer.")
    return ids


def asked_twice(encoded: Sequence[EncodedMemory]) -> list[list[int]]:
    """Groups of questions that are the same but for case, white space and what ends them."""
    groups: dict[str, list[int]] = {}
    for i, m in enumerate(encoded):
        groups.setdefault(asked_alike(m.memory.opening), []).append(i)
    return [g for g in groups.values() if len(g) > 1]
