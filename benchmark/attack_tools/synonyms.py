"""The project's table of synonyms, and the substitution of whole words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from ..common.lines import text_lines
from ..common.paths import CONFIGS

WORD = re.compile(r"(?<!\w)(?<!\w['’])[A-Za-z]+(?:'[a-z]+)?(?!['’]?\w)")  # whole words only: not the sum in résumé
ARTICLES = ("a", "an")

_AN = re.compile(r"(?!uni(?!n)|us[eu]|eu|one\b)[aeiou]|heir|hono|honest|hour", re.IGNORECASE)  # what takes "an"


@cache
def synonyms() -> dict[str, tuple[str, ...]]:
    """Word -> alternatives in order of preference, all lower case."""
    pairs = (line.split(":", 1) for _, line in text_lines(CONFIGS / "synonyms.txt") if not line.startswith("#"))
    return {word: tuple(a.strip() for a in alternatives.split(",")) for word, alternatives in pairs}


def substitute(text: str, changes: Sequence[tuple[re.Match[str], str]]) -> str:
    """Replace whole words, from left to right, keeping case and spacing; an article before a new word follows its first sound."""
    done, end = "", 0
    for match, new in changes:
        if new.lower() in ARTICLES:
            new = "an" if _AN.match(text[match.end() :].lstrip(" ")) else "a"
        article = r"\1n\2" if _AN.match(new) else r"\1\2"
        before = re.sub(r"\b([Aa])n?( +)$", article, done + text[end : match.start()])
        done, end = before + cased(new, match.group()), match.end()
    return done + text[end:]


def cased(new: str, old: str) -> str:
    """`new` in capitals, or with a capital, if `old` is."""
    return new.upper() if old.isupper() and len(old) > 1 else new[:1].upper() + new[1:] if old[:1].isupper() else new
