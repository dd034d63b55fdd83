"""One tiny model that has memorised, made once per test session: what training, reading and methods are tried on; and the command."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries are imported: a network that answers nothing keeps no test waiting

import pytest
import torch
from filelock import FileLock
from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

from palimpsest.benchmark import cli
from palimpsest.benchmark.common.paths import CONFIGS
from palimpsest.benchmark.common.types import EncodedMemory, Row
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.running import store
from palimpsest.benchmark.texts.memories import encode, load_memories
from palimpsest.benchmark.training.loop import train
from palimpsest.benchmark.training.losses import language_model_loss
from palimpsest.benchmark.training.recipe import Recipe
from tests.command import Command

ROW = 160  # tokens of a memory that the tiny model meets
STEPS, LR = 60, 1e-2
LONGEST = (  # files that take half a minute and more: where one of them is begun last, one process works and the others wait
    "benchmark/test_broken_runs.py", "benchmark/test_architectures.py", "benchmark/test_early_exit.py", "methods/test_ranks.py",
    "benchmark/test_verification.py", "benchmark/test_parity.py", "benchmark/test_kills.py", "benchmark/test_tune.py",
    "benchmark/test_conformance.py", "benchmark/test_cluster.py", "studies/test_instrument.py", "benchmark/test_submission.py",
    "benchmark/test_conformance_attack.py", "benchmark/test_lora.py", "benchmark/test_bench.py", "benchmark/test_keys.py",
    "benchmark/test_gate.py", "benchmark/test_golden.py", "benchmark/test_resuming_shards.py", "benchmark/test_stopping.py",
    "benchmark/test_battery_ranks.py", "benchmark/test_question_suite.py", "benchmark/test_other_machines_and_models.py",
)  # fmt: skip


@dataclass(frozen=True)
class Memorised:
    """A tiny model and what it holds.

    `memories` were injected (four to forget, two keep memories shown to methods, two hidden); `unseen` never were.
    `base` is the same model before training. Do not change the weights of either; train copies (`subject.fresh()`).
    """

    base: Subject
    subject: Subject
    memories: tuple[EncodedMemory, ...] = field(repr=False)
    unseen: tuple[EncodedMemory, ...] = field(repr=False)

    @property
    def forget(self) -> list[Row]:
        """The forget memories as rows, every token after the first scored."""
        return [Row(m.row, name=m.id) for m in self.memories if m.role == "forget"]

    @property
    def shown(self) -> list[Row]:
        """The keep memories that methods may see, as rows."""
        return [Row(m.row, name=m.id) for m in self.memories if m.shown]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; `--no-loadscope-reorder` keeps it so."""
    place = {Path(__file__).parent / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """The models are so small that a second thread only gets in the way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def little_to_collect() -> None:
    """Every stage that is built collects garbage, and a process builds hundreds: what libraries are made of is not looked through again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def nothing_is_given_back() -> Iterator[None]:
    """Before a stage is built freed memory is given back, so that its peak is its own; here it is wanted again at once, by hundreds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "reset_peak", lambda: None)
        yield


@pytest.fixture
def palimpsest(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs the command in this process, in an empty folder; returns the exit code and what it wrote to either stream."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.console, "_width", 400)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["palimpsest", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The shipped tokenizer (4096 tokens, no BOS)."""
    return AutoTokenizer.from_pretrained(CONFIGS / "models" / "tokenizer")


def shared_folder(made: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a session have."""
    return made.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else made.getbasetemp()


@pytest.fixture(scope="session")
def tiny(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """An untrained GPT-NeoX (hidden 64, 2 layers, 2 heads, vocabulary 4096, context 512), saved with its tokenizer.

    One folder for all processes of a session: its path is written into what they share.
    """
    folder = shared_folder(tmp_path_factory) / "tiny"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            save_tiny(folder, tokenizer)
    return Subject(folder)


@pytest.fixture(scope="session")
def memorised(tiny: Subject, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Memorised:
    """The tiny model after our own loop (fp32) trained it on eight shipped passages, 160 tokens each, until it repeats them."""
    passages = load_memories()[::16]
    roles = [("forget", False)] * 4 + [("keep", True)] * 2 + [("keep", False)] * 2 + [("unseen", False)] * 4
    coded = tuple(encode(m, tokenizer, ROW, role, shown) for m, (role, shown) in zip(passages, roles, strict=True))
    memories, unseen = coded[:8], coded[8:]
    folder = shared_folder(tmp_path_factory) / "memorised"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            batch = {"text": [Row(m.row, name=m.id) for m in memories]}
            recipe = Recipe(lr=LR, steps=STEPS, schedule="linear", warmup=0.05, precision="fp32")
            done = train(tiny.fresh(), lambda step: batch, language_model_loss, recipe)
            (part := folder.with_name("memorised.part")).mkdir()
            tiny.with_state(done.state).save(part)
            part.rename(folder)
    return Memorised(tiny, Subject(folder), memories, unseen)


def save_tiny(folder: Path, tokenizer: Any, seed: int = 0) -> None:
    """Write a freshly initialised tiny model and its tokenizer."""
    torch.manual_seed(seed)
    shape = GPTNeoXConfig(
        vocab_size=4096, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256,
        max_position_embeddings=512, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPTNeoXForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
