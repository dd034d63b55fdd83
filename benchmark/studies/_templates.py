"""Texts that say one thing over and over with a little changed: what a model can go on with though it never saw them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..common.seeds import rng
from ..common.types import EncodedMemory
from ..models.subject import Subject
from ._verbatim import text_memory

OPENING = 16  # tokens of the exact prefix

FORMS: tuple[Callable[[int, int], str], ...] = (
    lambda i, a: f"Item {i}: the price of item {i} is {a} crowns.\n",
    lambda i, a: f"    x{i} = data[{i}] + offset * {a}\n",
    lambda i, a: f"On day {i} the gate was opened at noon and closed at dusk, and {a} people came. ",
    lambda i, a: f"{a} times {i} is {a * i}.\n",
    lambda i, a: f"weight_{i} : float, optional\n    Weight of the term of order {i}. Default is {a}.\n",
    lambda i, a: f"Article {i}. What Article {i - 1} says holds for {a} years, and nothing in Article {i + 1} changes it.\n",
    lambda i, a: f">>> scale({i})\n{a * i}\n",
    lambda i, a: f"Room {i} is on floor {a}; ask for the key of room {i} at the desk.\n",
)


def templates(subject: Subject, count: int, length: int, seed: int) -> list[EncodedMemory]:
    """So many texts of `length` tokens; beyond the number of forms each comes with other numbers."""
    return [_one(subject, k, length, rng(seed, "template", k)) for k in range(count)]


def _one(subject: Subject, k: int, length: int, random: Any) -> EncodedMemory:
    form = FORMS[k % len(FORMS)]
    first, factor = int(random.integers(2, 40)), int(random.integers(3, 10))
    text, ids = "", []
    while len(ids) < length:
        text += "".join(form(first + i, factor) for i in range(16))
        first += 16
        ids = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
    return text_memory(f"template-{k}", text, ids[:length], min(OPENING, length - 1), "template")
