"""Files of memories and corpora in other encodings, layouts and shapes."""

from __future__ import annotations

import json
from typing import Any

from palimpsest.benchmark.texts.memories import PASSAGES

from . import Case

TITLE = "Memories and corpora"

GOOD = [json.loads(line) for line in PASSAGES.read_text("utf-8").split("\n")[:9:3]]
FIRST = GOOD[0]
WORKS = "3 memories"


def lines(*rows: Any, end: str = "\n", ascii: bool = False) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=ascii)) + end for row in rows)


def changed(**fields: Any) -> dict[str, Any]:
    return FIRST | fields


def memories(what: str, content: str | bytes, says: str, status: int = 1) -> Case:
    return Case(what, ("memories", "check", "m.jsonl", "--no-corpus"), says, {"m.jsonl": content}, status=status)


def inside(text: str, put: str) -> str:
    return text[:400] + put + text[400:]


CASES = [
    memories("a byte-order mark", b"\xef\xbb\xbf" + lines(*GOOD).encode(), WORKS, 0),
    memories("CR LF", lines(*GOOD, end="\r\n"), WORKS, 0),
    memories("blank lines", "\n" + lines(*GOOD, end="\n  \n"), WORKS, 0),
    memories("U+2028 in a text", lines(changed(text=inside(FIRST["text"], "\u2028")), *GOOD[1:]), WORKS, 0),
    memories("U+2029 in a text", lines(changed(text=inside(FIRST["text"], "\u2029")), *GOOD[1:]), WORKS, 0),
    memories("U+0085 in a text", lines(changed(text=inside(FIRST["text"], "\x85")), *GOOD[1:]), WORKS, 0),
    memories("an empty file", "", "holds no memory"),
    memories("Latin-1", lines(changed(text=inside(FIRST["text"], "é"))).encode("latin-1"), "m.jsonl:1 is not UTF-8 (byte 0xe9)"),
    memories("UTF-16", lines(*GOOD).encode("utf-16"), "m.jsonl is UTF-16"),
    memories("UTF-16 without a mark", lines(*GOOD).encode("utf-16-le"), "m.jsonl is UTF-16 or binary"),
    memories("a lone surrogate", lines(GOOD[1], changed(text=inside(FIRST["text"], "\ud83d")), ascii=True), r"m.jsonl:2 holds \ud83d"),
    memories("a JSON array", json.dumps(GOOD, indent=1), "holds a JSON array"),
    memories("a JSON array on one line", json.dumps(GOOD), "holds a JSON array"),
    memories("not JSON", lines(FIRST, "{text: 1}"), "m.jsonl:2 is not JSON"),
    memories("brackets without end", "[" * 100_000, "m.jsonl:1 is not JSON"),
    memories("a line that is no object", lines(FIRST, "7"), "m.jsonl:2 is not a memory but a int"),
    memories("no text", lines({k: v for k, v in FIRST.items() if k != "text"}), "m.jsonl:1 is not a memory: missing text"),
    memories("an id twice", lines(*GOOD, FIRST), "the id 'news-01' stands for more than one memory"),
    memories("an empty id", lines(changed(id=" ")), "the id is empty"),
    memories("a number for a text", lines(changed(text=5)), "memory 'news-01': text=5: expected a text"),
    memories("a text for a number", lines(changed(opening_end="80")), "opening_end='80': expected a whole number"),
    memories("true for a number", lines(changed(opening_end=True)), "opening_end=True: expected a whole number"),
    memories("NaN for a number", lines(changed(opening_end=float("nan"))), "opening_end=nan: expected a whole number"),
    memories("an opening that never ends", lines(changed(opening_end=9999)), "opening_end=9999 is not inside its text"),
    memories("paraphrases as one text", lines(changed(paraphrases="In other words,")), "expected a list of texts"),
    memories("an empty paraphrase", lines(changed(paraphrases=[""])), "expected a list of texts, none of them empty"),
]
