"""What tests of studies use: a corpus of made-up words in place of the docstrings, and a laboratory on a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark import study
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.study import Lab
from palimpsest.leaderboard.study_report import StudyFacts, write_study
from palimpsest.leaderboard.study_results import Found
from tests.micro import micro_suite, write_corpus


@contextmanager
def made_up_corpus(folder: Path, documents: int = 250) -> Iterator[None]:
    """While this lasts, studies read ordinary text of made-up words, cached in `folder`, and train on few and small batches."""
    texts = folder / "texts"
    texts.mkdir()
    corpus, load = write_corpus(texts, documents), study.load_suite
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALIMPSEST_CACHE", str(folder / "cache"))
        patch.setattr(study, "load_suite", lambda name: replace(load(name), corpus=corpus, injection=micro_suite(folder, corpus).injection))
        yield


def fast(name: str, folder: Path, **fields: Any) -> Lab:
    """A study's fast form in fp32, with other fields."""
    return study.lab(name, {"precision": "fp32", **fields}, Store(folder / "store"), "fast")


def written(lab: Lab, found: Found, folder: Path) -> str:
    """The page that is written of what was found."""
    s = lab.study
    facts = StudyFacts(lab.name, s.question, s.paper, s.address, "fast", f"palimpsest study {lab.name}", lab.seconds, "cpu")
    return write_study(found, facts, folder)[0].read_text("utf-8")
