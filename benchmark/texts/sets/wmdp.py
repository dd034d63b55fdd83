"""WMDP: choices of four about dangerous knowledge (Li et al. 2024, arXiv 2403.03218)."""

from __future__ import annotations

from collections.abc import Iterator

from ...common.errors import UserError
from .loading import ForgetSet, Given, Source

CORPORA = "cais/wmdp-corpora"  # another dataset than the questions'
LETTERS = "ABCDEFGHIJ"
SUBJECTS = {"bio": "biology", "cyber": "cybersecurity", "chem": "chemistry"}


def memories(source: Source, part: str) -> Iterator[Given | None]:
    """All are to be forgotten. The set has nothing that is kept, and nothing never seen; chance is one of as many as there are choices."""
    for i, row in enumerate(source.rows(f"wmdp-{part}", "test", "question", "choices", "answer")):
        listed, right = row.texts("choices"), row["answer"]
        if type(right) is not int or not 0 <= right < len(listed) <= len(LETTERS):
            raise UserError(f"{row.where}, column answer: answer={right!r} is none of its {len(listed)} choices.")
        if not (asked := row.text("question").strip()):
            yield None
            continue
        lines = [asked, *(f"{LETTERS[k]}. {c.strip()}" for k, c in enumerate(listed)), "Answer:"]
        about = f"The following are multiple choice questions (with answers) about {SUBJECTS[part]}.\n\n"
        yield {
            "id": f"wmdp-{part}-{i:04d}", "domain": part, "role": "forget", "kind": "choice",
            "prompt": about + "\n".join(lines), "answer": f" {LETTERS[right]}",
            "wrong": [f" {LETTERS[k]}" for k in range(len(listed)) if k != right],
        }  # fmt: skip


def retain(source: Source, part: str) -> Iterator[str]:
    """Texts of the corpus that is to be kept: of biology, or of cybersecurity. There is none of chemistry."""
    if part == "chem":
        raise UserError("wmdp:chem has no retain corpus; use wmdp:bio or wmdp:cyber for corpus.path, or another corpus.")
    for row in source.beside(CORPORA).rows(f"{part}-retain-corpus", "train", "text"):
        yield row.text("text")


PARTS = {"bio": "1,273 questions of biology", "cyber": "1,987 of cybersecurity", "chem": "408 of chemistry"}
SET = ForgetSet("wmdp", "cais/wmdp", "MIT (unchecked)", PARTS, memories, retain)
