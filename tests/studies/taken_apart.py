"""What tests of `dependency` and `circuits` share: tiny models of any architecture, and a study on a corpus of made-up words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from palimpsest.benchmark import study
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.running import builders, inputs
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.study import Lab, lab
from palimpsest.benchmark.suites.config import load_suite
from tests.benchmark.architecture_configs import ARCHITECTURES
from tests.conftest import Memorised
from tests.micro import write_corpus


def subject_of(name: str, folder: Path, tokenizer: Any, seed: int = 0) -> Subject:
    """One architecture, tiny, with large random weights, so that everything moves what is said."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(ARCHITECTURES[name]())
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim >= 2:
                p.normal_(0, 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Subject(folder)


def fast(name: str, memorised: Memorised, folder: Path, patch: pytest.MonkeyPatch, **fields: Any) -> Lab:
    """The fast form of a study in a new folder, on a small corpus. The held model has memorised, the twin is that before."""
    patch.setenv("PALIMPSEST_CACHE", str(folder / "cache"))
    (folder / "texts").mkdir(parents=True)
    pocket = load_suite("pocket")  # with a short stream, since nothing is trained
    suite = replace(pocket, corpus=write_corpus(folder / "texts"), injection=replace(pocket.injection, occurrences=(1,)))

    def planted(folder: Path, forget: bool = False, **_: Any) -> dict[str, Any]:
        (memorised.subject if forget else memorised.base).save(folder)
        return {}

    patch.setattr(study, "load_suite", lambda _: suite)
    patch.setattr(builders, "injected", planted)
    patch.setattr(builders, "unlearned", planted)  # a method that gives the model before back
    patch.setattr(inputs, "encode_all", lambda *_: [*memorised.memories, *memorised.unseen])
    return lab(name, {"model": str(memorised.base.folder), "precision": "fp32", **fields}, Store(folder / "store"), "fast")
