"""When two short texts are the same: case, white space and what ends a sentence do not count, and everything else does.

So "C++", "C#" and "C" are three answers, as are "5" and "-5"; "Paris", " paris." and "PARIS!" are one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from ...common.scripts import UNSPACED

ENDS = ".!?…,;:。！？．，；：、｡।॥؟۔،؛"  # what may end a sentence or a part of one, in several scripts
_TERM = re.compile(  # numbers whole, and words with the signs that names of languages, grades and ions have
    rf"(?<!\w)-?\d+(?:,\d{{3}})*(?:(?:\.\d+)+|(?!\w))|(?:[{UNSPACED}]|[^\W{UNSPACED}]+(?:'[^\W{UNSPACED}]+)?)(?:#|\+\+|\+(?!\w))?"
)
_NEXT = r"\n|<[^<>\s]+>|\[/\w+\]|\w+:\s*$"  # of a prompt: a new line, a marker of a chat template, or a last word that announces the answer
_BEFORE = re.compile(rf"[{re.escape(ENDS)}]+(?=\s*(?:{_NEXT}))")


def alike(text: str) -> str:
    """What texts share that are the same; a text of nothing but what ends sentences is itself."""
    folded = " ".join(_folded(text).split())
    return folded.rstrip(ENDS + " ") or folded


def terms(text: str) -> list[str]:
    """The words and numbers of a text, each with the signs that make another of it: "C" and "C++", "5" and "-5", "3" and "3.5".

    A number is the same with and without commas between its thousands.
    """
    return [t.replace(",", "") for t in _TERM.findall(_folded(text).replace("\N{MINUS SIGN}", "-"))]


def asked_alike(prompt: str) -> str:
    """The same of a prompt as a model meets it, where the question ends before the end: after it a template or "Answer:" goes on."""
    return alike(_BEFORE.sub("", prompt))


def distinct(texts: Iterable[str]) -> list[str]:
    """Texts that are the same as none before, in their order."""
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(alike(text), text)
    return list(first.values())


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
