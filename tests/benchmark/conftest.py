"""What several files of tests of the benchmark use: models, and suites that are run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from filelock import FileLock
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, LlamaConfig

from palimpsest.benchmark.common.paths import CONFIGS
from palimpsest.benchmark.common.plugins import find
from palimpsest.benchmark.common.types import Results
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.running import inputs, provenance
from palimpsest.benchmark.running.assemble import results as assemble
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Store, _sha_of
from palimpsest.benchmark.submission import schema
from palimpsest.benchmark.submission.making import Said, make
from palimpsest.benchmark.submission.row import own_row
from palimpsest.benchmark.suites.config import CorpusConfig, InjectionConfig, QualityConfig, Suite
from tests.benchmark.kinds import INSTEAD
from tests.benchmark.model_folders import SHAPE, made
from tests.benchmark.world import METHOD, World
from tests.conftest import Memorised, shared_folder
from tests.micro import micro_suite, write_corpus
from tests.observed import asked_elsewhere

COMMIT, ADDRESS = "c" * 40, "https://example.org/of-the-author"
TAUGHT = InjectionConfig(occurrences=(60,), density=1.0, batch=16, lr=1e-2)

# ---- the reader


@pytest.fixture(scope="module")
def blurred(memorised: Memorised) -> Subject:
    """The memorised model with noise on its weights: it repeats some windows for a while, and every length occurs."""
    random = torch.Generator().manual_seed(0)
    state = memorised.subject.fresh().state_dict()
    noisy = {k: v + 0.15 * v.std() * torch.randn(v.shape, generator=random) if v.ndim == 2 else v for k, v in state.items()}
    return memorised.subject.with_state(noisy)


@pytest.fixture(scope="module")
def constant(tiny: Subject) -> Subject:
    """A model whose logits are all equal, so that it always says token 0, which is also the end of text."""
    return tiny.with_state({"lm_head.weight": torch.zeros(4096, 64)})


@pytest.fixture
def with_bos(memorised: Memorised, tokenizer: Any) -> Callable[[Path], Subject]:
    """Saves the memorised model with a tokenizer that puts token 4095 before every text."""

    def make(folder: Path) -> Subject:
        memorised.subject.save(folder)
        own = AutoTokenizer.from_pretrained(memorised.subject.folder)
        first = own.convert_ids_to_tokens(4095)
        own.backend_tokenizer.post_processor = TemplateProcessing(single=f"{first} $A", special_tokens=[(first, 4095)])
        own.bos_token = AddedToken(first, special=True)
        own.save_pretrained(folder)
        return Subject(folder)

    return make


# ---- kinds of subject


@pytest.fixture(scope="module")
def difference(memorised: Memorised) -> Subject:
    """The memorised model as what is reinforced, the one that never saw the passages as the baseline."""
    return Subject.difference(memorised.base, memorised.subject, 2.0)


@pytest.fixture(scope="module")
def filtered(memorised: Memorised) -> Subject:
    """The memorised model, unchanged, that may not say what it was to forget."""
    return Subject.filtered(memorised.subject, [r.ids for r in memorised.forget], INSTEAD)


# ---- models in folders


@pytest.fixture
def quiet_library() -> Iterator[None]:
    """What the library prints about weights is its own affair."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> dict[bool, Path]:
    """A tiny Llama with a head of its own (False) and one that is tied (True)."""
    folder = tmp_path_factory.mktemp("llamas")
    return {tied: made(folder / str(tied), LlamaConfig(**SHAPE, tie_word_embeddings=tied), tokenizer) for tied in (False, True)}


@pytest.fixture
def llama(llamas: dict[bool, Path], tmp_path: Path) -> Path:
    return shutil.copytree(llamas[False], tmp_path / "llama")


@pytest.fixture
def tied(llamas: dict[bool, Path], tmp_path: Path) -> Path:
    return shutil.copytree(llamas[True], tmp_path / "tied")


# ---- a suite that is run


@pytest.fixture(scope="session")
def made_up_corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[CorpusConfig, Path]:
    """A folder of a thousand documents of made-up words, one for all processes of a session, and a folder for its cache."""
    folder = shared_folder(tmp_path_factory) / "texts"
    with FileLock(f"{folder}.lock"):
        folder.mkdir(exist_ok=True)
        return write_corpus(folder, 1000), tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def corpus(made_up_corpus: tuple[CorpusConfig, Path]) -> Iterator[CorpusConfig]:
    """A thousand documents of made-up words, with a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALIMPSEST_CACHE", str(made_up_corpus[1]))
        read_once(patch)
        yield made_up_corpus[0]


def read_once(patch: pytest.MonkeyPatch) -> None:
    """Every run that is bound reads its corpus and looks for near-duplicates, for a second and more; no test edits one."""
    patch.setattr(inputs, "load_corpus", cache(inputs.load_corpus))


@pytest.fixture(scope="module")
def suite(tiny: Subject, corpus: CorpusConfig) -> Suite:
    return Suite(
        name="micro", model=str(tiny.folder), per_role=4, seeds=(0,), corpus=corpus,
        injection=InjectionConfig(occurrences=(4,), lr=5e-3),
        methods={"none": {}, "retrain": {}, "gradient_ascent": {"epochs": 2}, "npo": {"epochs": 2}},
        attacks={"prefix": {}, "paraphrase": {}}, quality=QualityConfig(documents=8), excerpts=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The suite, run without interruption: once for all processes of a session, and copied for each file of tests."""
    shared, copy = shared_folder(tmp_path_factory), tmp_path_factory.mktemp("whole") / "store"
    with FileLock(shared / "whole.lock"):
        Run(suite, Store(shared / "whole-store")).execute()
    shutil.copytree(shared / "whole-store", copy)
    return Run(suite, Store(copy))


@pytest.fixture(scope="module")
def taught(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A held model that repeats its memories, and its twin: trained once for all processes of a session, copied for each file of tests."""
    shared, copy = shared_folder(tmp_path_factory), tmp_path_factory.mktemp("taught") / "store"
    suite = replace(suite, per_role=8, injection=TAUGHT)
    with FileLock(shared / "taught.lock"):
        made = Run(suite, Store(shared / "taught-store"))
        for stage in (made.held(0), made.twin(0)):
            made.store.ensure(stage)
    shutil.copytree(shared / "taught-store", copy)
    return Run(suite, Store(copy))


@pytest.fixture(scope="module")
def results(whole: Run) -> Results:
    return assemble(whole)


@pytest.fixture(scope="module")
def clean(suite: Suite, whole: Run) -> Iterator[Run]:
    """The run as a checkout without changes of its own would have made it."""
    for file in whole.store.root.glob("*/*/manifest.json"):
        told = json.loads(file.read_text()) | {"commit": COMMIT, "dirty": False}
        file.chmod(0o644)
        file.write_text(json.dumps(told | {"sha": _sha_of(told)}, indent=1, sort_keys=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "_checkout", lambda: (COMMIT, False))
        patch.setattr(schema, "has_commit", lambda commit: commit == COMMIT)
        patch.setattr(inputs, "open_subject", cache(inputs.open_subject))  # every row that is looked at opens it anew
        yield Run(suite, whole.store)


@pytest.fixture(scope="module")
def honest(clean: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of npo, with weights: made once for all processes of a session."""
    shared = shared_folder(tmp_path_factory)
    with FileLock(shared / "honest.lock"):
        if not (shared / "honest.zip").exists():
            row, told = own_row(clean.suite, "npo", clean.store)
            make(row, told, Said("micro-npo", ADDRESS, ADDRESS, weights=True, today="2026-11-26"), shared / "honest.zip")
    return shared / "honest.zip"


# ---- a suite whose inputs may be edited


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CorpusConfig]:
    """A folder of 250 documents of made-up words, with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALIMPSEST_CACHE", str(tmp_path_factory.mktemp("cache")))
        read_once(patch)
        yield write_corpus(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def world(tiny: Subject, small_corpus: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    shutil.copytree(tiny.folder, tmp_path / "model")
    shutil.copy(CONFIGS / "memories" / "passages.jsonl", tmp_path / "memories.jsonl")
    shutil.copy(CONFIGS / "deepspeed" / "zero0.json", tmp_path / "zero0.json")
    (tmp_path / "forget.py").write_text(METHOD)
    (tmp_path / "beside.py").write_text("AMOUNT = 2.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    suite = replace(
        micro_suite(tmp_path / "model", small_corpus), memories=str(tmp_path / "memories.jsonl"),
        deepspeed=str(tmp_path / "zero0.json"), methods={"none": {}, "retrain": {}, str(tmp_path / "forget.py"): {}},
        attacks={"prefix": {}, "paraphrase": {}, "word_substitution": {}, "quantise": {}},
    )  # fmt: skip
    yield World(tmp_path, suite, monkeypatch)
    find.cache_clear()


@pytest.fixture(scope="module")
def observed(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run on models from elsewhere: nothing is injected."""
    return asked_elsewhere(tmp_path_factory, tokenizer)


@pytest.fixture(scope="module")
def observed_results(observed: Run) -> Results:
    return assemble(observed)
