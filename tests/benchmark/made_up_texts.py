"""Texts of made-up words for tests of the corpus."""

from __future__ import annotations

import random


def text(seed: int, n: int = 60) -> str:
    """Made-up words: two different seeds share no 8-word run."""
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghij", k=5)) for _ in range(n))


def variant(seed: int) -> str:
    """The same text with its second half written anew."""
    return " ".join(text(seed).split()[:40]) + " " + text(seed + 10_000, 20)


DOCUMENTS = [text(i) for i in range(600)]
