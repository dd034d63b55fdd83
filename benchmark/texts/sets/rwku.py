"""RWKU: what models know of 200 famous people (Jin et al. 2024, arXiv 2406.10890)."""

from __future__ import annotations

from collections.abc import Iterator

from .loading import ForgetSet, Given, Source, question

LISTED = "multiple choice"  # the type of questions that list their answers
GAP = "Fill in the gap with the words that belong there, and say nothing else: "  # before the sentences of level 1
ASKED = {"forget": ("forget_level1", "forget_level2", "forget_level3"), "keep": ("neighbor_level1", "neighbor_level2")}


def memories(source: Source, part: str) -> Iterator[Given | None]:
    """Gaps to fill (level 1), questions (2), attacks on these (3) about the people to forget; 1 and 2 about their neighbours are kept.

    Questions that list their answers are left out: to repeat one of a list is not to know it.
    """
    for role, configs in ASKED.items():
        for config in configs:
            for i, row in enumerate(source.rows(config, "test", "query", "answer", "subject")):
                title, asked = " ".join(str(row[k]) for k in ("level", "type") if row.get(k)), row.text("query")
                if row.get("type") == LISTED or not asked.strip():
                    yield None
                    continue
                asked = GAP + asked if config.endswith("level1") else asked
                yield question(f"rwku-{config}-{i:05d}", row.label("subject"), role, asked, row.text("answer"), title=title)


def retain(source: Source, part: str) -> Iterator[str]:
    """Texts of `mia_retain`."""
    for row in source.rows("mia_retain", "test", "text"):
        yield row.text("text")


SET = ForgetSet("rwku", "jinzhuoran/RWKU", "CC-BY-4.0 (unchecked)", {"all": "200 people, 13,131 questions"}, memories, retain)
