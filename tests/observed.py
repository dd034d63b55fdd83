"""Tiny models that know made-up questions in TOFU's format, or all but those to forget: what the observational track is tried on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from palimpsest.benchmark.common.types import EncodedMemory, Row
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.suites.config import CorpusConfig, QualityConfig, Suite
from palimpsest.benchmark.texts.memories import encode_all, load_memories
from palimpsest.benchmark.training.loop import train
from palimpsest.benchmark.training.losses import language_model_loss
from palimpsest.benchmark.training.recipe import Recipe
from tests.conftest import save_tiny, shared_folder
from tests.micro import write_corpus

STANDINS = Path(__file__).parent / "standins"
SET = f"tofu:{STANDINS / 'tofu'}"
ROW = 96  # tokens
PER_ROLE = 4


@dataclass(frozen=True)
class Elsewhere:
    """Folders of two models, and a suite that asks them."""

    held: Path
    retrained: Path
    suite: Suite


def made_elsewhere(made: pytest.TempPathFactory, tokenizer: Any) -> Elsewhere:
    """A model that met what is to be forgotten and kept until it knew it, and one that only met what is kept. Made once per session."""
    folder = shared_folder(made) / "elsewhere"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            _make(folder, tokenizer)
    suite = Suite(
        name="elsewhere", held=str(folder / "held"), memories=SET, per_role=PER_ROLE, seeds=(0,), row=ROW, precision="fp32",
        corpus=CorpusConfig("text", str(folder / "texts")), methods={"none": {}, "npo": {"epochs": 1}}, excerpts=1,
        attacks={"prefix": {}, "paraphrase": {}, "loss": {}, "reference": {}, "patching": {}},
        published=True, quality=QualityConfig(documents=4, tasks=("palimpsest_bits_per_byte",)),
    )  # fmt: skip
    return Elsewhere(folder / "held", folder / "retrained", suite)


def asked_elsewhere(made: pytest.TempPathFactory, tokenizer: Any) -> Run:
    """A finished run of a method here beside a model from elsewhere, which is the perfect one: the retrained model itself."""
    there = made_elsewhere(made, tokenizer)
    store = shared_folder(made) / "asked-elsewhere"
    run = Run(replace(there.suite, retrained=str(there.retrained), given={"theirs": str(there.retrained)}), Store(store))
    with FileLock(f"{store}.lock"):
        run.execute()
    return run


def _make(folder: Path, tokenizer: Any) -> None:
    (folder / "texts").mkdir(parents=True)
    write_corpus(folder / "texts", 500)
    every = encode_all(load_memories(SET), tokenizer, ROW, 0, PER_ROLE)
    taught = {"held": ("forget", "keep"), "retrained": ("keep",)}
    save_models(folder, tokenizer, {name: [m for m in every if m.role in roles] for name, roles in taught.items()})


def save_models(folder: Path, tokenizer: Any, taught: Mapping[str, Sequence[EncodedMemory]], steps: int = 60) -> None:
    """Folders of tiny models that were the same before each was taught memories of its own, by heart."""
    for name in ("blank", *taught):
        (folder / name).mkdir()
    save_tiny(folder / "blank", tokenizer)
    for name, memories in taught.items():
        _taught(Subject(folder / "blank"), memories, steps).save(folder / name)


def _taught(blank: Subject, memories: Sequence[EncodedMemory], steps: int) -> Subject:
    batch: dict[str, Sequence[Row]] = {"text": [Row(m.row, name=m.id).after(m.context, len(m.row)) for m in memories]}
    recipe = Recipe(lr=1e-2, steps=steps, schedule="linear", warmup=0.05, precision="fp32")
    return blank.with_state(train(blank.fresh(), lambda step: batch, language_model_loss, recipe).state)
