"""MUSE: news articles and the Harry Potter books (Shi et al. 2024, arXiv 2407.06460)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...common.answer_reading import MEMBERS
from .loading import ForgetSet, Given, Source, passage, pieces, question

OPENING = 64  # words before what a passage is asked for; prompts of `verbmem` have ten times as many
TAIL = 60  # characters of a prompt that are looked up in the whole texts


def memories(source: Source, part: str) -> Iterator[Given | None]:
    """Passages: `verbmem` is forgotten, texts of `privleak` are kept (`retain`) and never seen (`holdout`). Questions: `knowmem`."""
    whole = "\0".join(row.text("text") for row in source.rows("raw", "forget", "text")) if source.may_have("raw", "forget") else ""
    for i, row in enumerate(source.rows("verbmem", "forget", "prompt", "gt")):
        prompt, rest = row.text("prompt"), row.text("gt").lstrip()
        text, end = _joined(prompt, rest, whole) if prompt.strip() and rest else ("", 0)
        if not 0 < end < len(text):
            yield None  # nothing to go on from, or nothing to ask for
            continue
        starts = [0, *(m.start() for m in re.finditer(r"(?<=\s)\S", text[:end]))]
        start = starts[-OPENING] if len(starts) >= OPENING else 0
        yield {"id": f"muse-verbmem-{i:04d}", "domain": "text", "role": "forget", "text": text[start:], "opening_end": end - start}
    for role, split in (("keep", "retain"), ("unseen", "holdout")):
        for i, row in enumerate(source.rows("privleak", split, "text")):
            yield passage(f"muse-{split}-{i:04d}", "text", role, row.text("text"), OPENING)
    for role, split in (("forget", "forget_qa"), ("keep", "retain_qa")):
        for i, row in enumerate(source.rows("knowmem", split, "question", "answer")):
            yield question(f"muse-{split}-{i:04d}", "knowledge", role, row.text("question"), row.text("answer"))


def _joined(prompt: str, rest: str, whole: str) -> tuple[str, int]:
    """Prompt and continuation as they stand in the whole texts, and where the opening ends: at the end of a word.

    The set cuts a text anywhere, also inside a word, and takes white space away there. Where the text is not found, what stands
    between the two is not known: there the opening ends behind the first word of the continuation.
    """
    after = whole.partition(prompt[-TAIL:])[2][: len(rest) + TAIL]
    if after.lstrip().startswith(rest[:TAIL]):
        gap = after[: len(after) - len(after.lstrip())]
        return prompt + gap + rest, len((prompt if gap or prompt[-1:].isspace() else re.sub(r"\S+$", "", prompt)).rstrip())
    text = prompt + rest if prompt[-1:].isspace() else f"{prompt} {rest}"
    return text, len(text) - len(rest) + len(rest.split(maxsplit=1)[0])


def aside(source: Source, part: str) -> Iterator[Given]:
    """Texts of `privleak`, `forget`: the members of MUSE's PrivLeak. Its non-members are the never-seen texts."""
    for i, row in enumerate(source.rows("privleak", "forget", "text")):
        if given := passage(f"muse-members-{i:04d}", MEMBERS, "forget", row.text("text"), OPENING):
            yield given


def retain(source: Source, part: str) -> Iterator[str]:
    """Texts of `raw`, `retain1`; whole books of pages are cut."""
    for row in source.rows("raw", "retain1", "text"):
        yield from pieces(row.text("text"))


PARTS = {"news": "articles of the BBC of 2023", "books": "the Harry Potter books"}
SET = ForgetSet("muse", "muse-bench/MUSE-{part}", "CC-BY-4.0 (unchecked; the texts are their owners')", PARTS, memories, retain, aside)
