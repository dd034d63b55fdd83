"""LUME: made-up stories, made-up personal records and real biographies (Ramakrishna et al. 2025, arXiv 2502.15097)."""

from __future__ import annotations

from collections.abc import Iterator

from .loading import ForgetSet, Given, Source
from .rows import Row

ROLES = {"forget": "forget", "retain": "keep"}


def _rows(source: Source, split: str) -> list[Row]:
    """In the repository `forget.jsonl` and `retain.jsonl`; on the hub, and in a copy of it, each is cut into train and validation."""
    names = [split] if source.has("", split) else [f"{split}_train", f"{split}_validation"]
    return [
        r for n in names for r in source.rows("", n, "id", "input", "output", "task", files="" if source.folder else f"data/{n}-*.parquet")
    ]


def memories(source: Source, part: str) -> Iterator[Given]:
    """Completions (ids end with scN) and questions (qaN): the set asks for both with the bare input. Nothing is never seen."""
    for split, role in ROLES.items():
        for row in _rows(source, split):
            asked, answer = row.text("input").rstrip(), row.text("output").strip()
            name = f"{split}-{row.text('id')}"
            yield {"id": name, "domain": row.label("task"), "role": role, "kind": "qa", "prompt": asked, "answer": f" {answer}"}


def retain(source: Source, part: str) -> Iterator[str]:
    """Input and output of the rows to keep."""
    for row in _rows(source, "retain"):
        yield f"{row.text('input').rstrip()} {row.text('output').strip()}"


LICENCE = "Apache-2.0 (its repository's README; the data on the hub: unchecked)"
HUB = "llmunlearningsemeval2025organization/semeval25-unlearning-dataset-public"
SET = ForgetSet("lume", HUB, LICENCE, {"all": "three tasks, 2,732 rows to forget"}, memories, retain)
