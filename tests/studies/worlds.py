"""A laboratory for tests: a study on the tiny model, a corpus of made-up words and few memories, in a store of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark import study
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.study import Lab
from tests.micro import micro_suite, write_corpus


def small_lab(name: str, model: Subject, folder: Path, patch: pytest.MonkeyPatch, **fields: Any) -> Lab:
    """The fast form of a study on a model, with the injection of the micro suite."""
    patch.setenv("PALIMPSEST_CACHE", str(folder / "cache"))
    (folder / "texts").mkdir()
    suite = micro_suite(model.folder, write_corpus(folder / "texts"))
    patch.setattr(study, "load_suite", lambda _: suite)
    own = {} if "checkpoints" in fields else {"model": str(model.folder)}  # public ones leave no model of ours to be read
    return study.lab(name, {**own, **fields}, Store(folder / "store"), "fast")
