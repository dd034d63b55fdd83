"""KnowUnDo: what of copyrighted books and of private data is to be forgotten, and what is not (Tian et al. 2024, arXiv 2407.01920)."""

from __future__ import annotations

from collections.abc import Iterator

from .loading import ForgetSet, Given, Source, question
from .rows import Row

ROLES = {"unlearn": "forget", "retention": "keep"}


def _pairs(source: Source, part: str, split: str) -> list[Row]:
    """The pairs that are trained on: on the hub one row with lists `train` and `val`, in the repository flat rows of `SPLIT_train`."""
    if not source.may_have(part, split) and source.has(part, f"{split}_train"):
        split = f"{split}_train"
    return [pair for row in source.rows(part, split) for pair in (row.rows("train") if "train" in row else [row])]


def memories(source: Source, part: str) -> Iterator[Given]:
    """`unlearn` is forgotten, `retention` kept; nothing is never seen."""
    for split, role in ROLES.items():
        for i, row in enumerate(_pairs(source, part, split)):
            yield question(f"knowundo-{part}-{split}-{i:04d}", part, role, row.text("text"), row.text("labels"))


def retain(source: Source, part: str) -> Iterator[str]:
    """Pairs of `retention`."""
    for row in _pairs(source, part, "retention"):
        yield f"Question: {row.text('text')}\nAnswer: {row.text('labels')}"


PARTS = {"copyright": "books", "privacy": "made-up personal data"}
SET = ForgetSet("knowundo", "zjunlp/KnowUnDo", "MIT (its repository's README; the data's own page: unchecked)", PARTS, memories, retain)
