"""MUSE: news articles and the Harry Potter books (Shi et al. 2024, arXiv 2407.06460)."""

from __future__ import annotations

from collections.abc import Iterator

from ...common.answer_reading import MEMBERS
from .loading import ForgetSet, Given, Source, passage, question

OPENING = 64  # words of kept and held-out texts that are the prompt


def memories(source: Source, part: str) -> Iterator[Given | None]:
    """Passages: `verbmem` is forgotten, texts of `privleak` are kept (`retain`) and never seen (`holdout`). Questions: `knowmem`."""
    for i, row in enumerate(source.rows("verbmem", "forget", "prompt", "gt")):
        prompt, rest = row.text("prompt"), row.text("gt")
        text = prompt + rest if rest[:1].isspace() else f"{prompt} {rest}"
        yield {"id": f"muse-verbmem-{i:04d}", "domain": "text", "role": "forget", "text": text, "opening_end": len(prompt)}
    for role, split in (("keep", "retain"), ("unseen", "holdout")):
        for i, row in enumerate(source.rows("privleak", split, "text")):
            yield passage(f"muse-{split}-{i:04d}", "text", role, row.text("text"), OPENING)
    for role, split in (("forget", "forget_qa"), ("keep", "retain_qa")):
        for i, row in enumerate(source.rows("knowmem", split, "question", "answer")):
            yield question(f"muse-{split}-{i:04d}", "knowledge", role, row.text("question"), row.text("answer"))


def aside(source: Source, part: str) -> Iterator[Given]:
    """Texts of `privleak`, `forget`: the members of MUSE's PrivLeak. Its non-members are the never-seen texts."""
    for i, row in enumerate(source.rows("privleak", "forget", "text")):
        if given := passage(f"muse-members-{i:04d}", MEMBERS, "forget", row.text("text"), OPENING):
            yield given


def retain(source: Source, part: str) -> Iterator[str]:
    """Texts of `raw`, `retain1`."""
    for row in source.rows("raw", "retain1", "text"):
        yield row.text("text")


PARTS = {"news": "articles of the BBC of 2023", "books": "the Harry Potter books"}
SET = ForgetSet("muse", "muse-bench/MUSE-{part}", "CC-BY-4.0 (unchecked; the texts are their owners')", PARTS, memories, retain, aside)
