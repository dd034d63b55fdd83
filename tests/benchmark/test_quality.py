"""Quality: local lm-eval tasks over the held-out half that is asked for."""

from __future__ import annotations

import json
import math
import random
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lm_eval.api.metrics import bits_per_byte
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.paths import CONFIGS
from palimpsest.benchmark.quality import documents as quality_data
from palimpsest.benchmark.quality import harness as quality
from palimpsest.benchmark.quality.harness import Measured, QualityBench
from palimpsest.benchmark.suites.config import QualityConfig
from palimpsest.benchmark.texts.corpus import Corpus

TOKENIZER = AutoTokenizer.from_pretrained(CONFIGS / "models" / "tokenizer")
SHAPE = GPTNeoXConfig(
    vocab_size=4096, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=512
)
CONFIG = QualityConfig(documents=6, batch=8)


def synthetic_corpus(documents: int = 80) -> Corpus:
    draw = random.Random(0)
    words = [draw.choice("bdfgklmnprst") + draw.choice("aeiou") + draw.choice(("nd", "st", "rm", "l")) for _ in range(300)]
    texts = [" ".join(draw.choices(words, k=draw.randint(90, 120))) + "." for _ in range(documents)]
    return Corpus("synthetic", {"train": [], "valid": [], "quality": texts}, 1.0, "synthetic")


def subject(seed: int = 0, bos: int | None = None) -> Any:
    torch.manual_seed(seed)
    return SimpleNamespace(model=GPTNeoXForCausalLM(SHAPE), tokenizer=TOKENIZER, bos=bos)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return synthetic_corpus()


@pytest.fixture(scope="module")
def bench(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> QualityBench:
    return QualityBench(corpus, CONFIG, tmp_path_factory.mktemp("quality"))


@pytest.fixture(scope="module")
def measured(bench: QualityBench) -> dict[tuple[str, str], Measured]:
    return {(m.task, m.metric): m for m in bench.measure(subject())}


def test_every_task_file_has_a_builder_and_every_builder_a_task_file() -> None:
    assert {file.stem for file in quality.TASKS.glob("*.yaml")} == set(quality_data.BUILDERS) == set(QualityConfig().tasks)


def test_per_document_values_average_to_the_reported_value(measured: dict[tuple[str, str], Measured]) -> None:
    assert {task for task, _ in measured} == set(CONFIG.tasks)
    for (_, metric), m in measured.items():
        assert len(m.documents) == CONFIG.documents
        if metric != "bits_per_byte":
            assert m.value == pytest.approx(sum(m.documents) / len(m.documents))


def test_bits_per_byte_weighs_documents_by_their_bytes(corpus: Corpus, measured: dict[tuple[str, str], Measured], tmp_path: Path) -> None:
    m = measured["palimpsest_bits_per_byte", "bits_per_byte"]
    file = quality_data.write_items(m.task, corpus, CONFIG, tmp_path)
    sizes = [len(json.loads(line)["text"].encode()) for line in file.read_text().splitlines()]
    assert m.value == pytest.approx(sum(b * n for b, n in zip(m.documents, sizes, strict=True)) / sum(sizes))
    assert not m.higher_is_better
    assert 0 < m.stderr < m.value


def test_the_jackknife_agrees_with_the_linearised_ratio_estimator() -> None:
    draw = random.Random(1)
    pairs = [(-draw.uniform(1, 2) * n, n) for n in (draw.randint(200, 700) for _ in range(200))]
    ratio = sum(a for a, _ in pairs) / sum(n for _, n in pairs)
    squares = sum((a - ratio * n) ** 2 for a, n in pairs)
    linear = math.sqrt(len(pairs) / (len(pairs) - 1) * squares) / sum(n for _, n in pairs) / math.log(2)
    assert quality.standard_error(bits_per_byte, pairs) == pytest.approx(linear, rel=0.01)


def test_a_second_model_reloads_nothing_and_meets_the_same_documents(
    bench: QualityBench, measured: dict[tuple[str, str], Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("tasks were loaded again")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    monkeypatch.setattr(TaskManager, "load", refuse)
    again = bench.measure(subject(seed=1))
    assert [m.task_hash for m in again] == [m.task_hash for m in measured.values()]
    assert [m.documents for m in again] != [m.documents for m in measured.values()]


def test_task_hashes_and_files_do_not_depend_on_when_or_where_they_are_made(
    bench: QualityBench, corpus: Corpus, measured: dict[tuple[str, str], Measured], tmp_path: Path
) -> None:
    turned = replace(corpus, splits={**corpus.splits, "quality": corpus.splits["quality"][::-1]})
    elsewhere = QualityBench(turned, CONFIG, tmp_path).measure(subject())
    assert [(m.task_hash, m.documents) for m in elsewhere] == [(m.task_hash, m.documents) for m in measured.values()]


def test_the_halves_share_no_document_and_leave_none_out(corpus: Corpus) -> None:
    test, validation = (quality_data.half_of(corpus, half) for half in quality_data.HALVES)
    assert not set(test) & set(validation)
    assert sorted(test + validation) == sorted(corpus.splits["quality"])
    assert min(len(test), len(validation)) > len(corpus.splits["quality"]) / 4


def test_fewer_documents_are_some_of_the_same_documents(corpus: Corpus, tmp_path: Path) -> None:
    for task in CONFIG.tasks:
        few, all_of_them = (
            set(quality_data.write_items(task, corpus, replace(CONFIG, documents=n), tmp_path).read_text().splitlines()) for n in (5, None)
        )
        assert len(few) == 5
        assert few < all_of_them


def test_the_batch_size_is_really_used_and_changes_nothing(
    corpus: Corpus, bench: QualityBench, measured: dict[tuple[str, str], Measured], tmp_path: Path
) -> None:
    rows: list[int] = []
    asked = subject()
    asked.model.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[0]))
    one_by_one = QualityBench(corpus, replace(CONFIG, batch=3), tmp_path).measure(asked)
    assert max(rows) == 3
    for m in one_by_one:
        assert m.documents == pytest.approx(measured[m.task, m.metric].documents, abs=1e-4)


class Knowing(GPTNeoXForCausalLM):
    """Certain of what comes next when all that it is shown is the beginning of a text it knows; else indifferent."""

    def know(self, texts: list[str]) -> None:
        self.beginnings = {tuple(ids[:n]): ids for ids in TOKENIZER(texts)["input_ids"] for n in range(1, len(ids))}

    def forward(self, input_ids: torch.Tensor, **_: Any) -> CausalLMOutput:
        logits = torch.zeros(*input_ids.shape, SHAPE.vocab_size)
        for row, ids in enumerate(input_ids.tolist()):
            prefix = int(ids[0] == 0)  # a rolling window begins with the end-of-text id, and rows are padded with it
            while ids[-1] == 0:
                ids.pop()
            text = self.beginnings.get(tuple(ids[prefix:]))
            for i in range(len(ids) if text else 0):
                logits[row, i, text[i + 1 - prefix]] = 100.0
        return CausalLMOutput(logits=logits)


def test_a_model_that_knows_the_documents_is_always_right_and_needs_no_bits(corpus: Corpus, bench: QualityBench) -> None:
    model = Knowing(SHAPE)
    model.know(corpus.splits["quality"])
    values = {(m.task, m.metric): m.value for m in bench.measure(SimpleNamespace(model=model, tokenizer=TOKENIZER, bos=None))}
    assert values.pop(("palimpsest_bits_per_byte", "bits_per_byte")) == pytest.approx(0, abs=1e-6)
    assert set(values.values()) == {1.0}


def test_the_first_id_stands_once_before_every_text(bench: QualityBench) -> None:
    asked, rows = subject(bos=7), []
    asked.model.register_forward_pre_hook(lambda _, args: rows.extend(args[0].tolist()))
    bench.measure(asked)
    assert rows
    assert all(row[0] == 7 and row[1] != 7 for row in rows)


def test_nothing_is_fetched_and_nothing_is_printed(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    QualityBench(corpus, replace(CONFIG, tasks=CONFIG.tasks[:1]), tmp_path).measure(subject())
    assert capfd.readouterr() == ("", "")


def test_another_task_name_brings_in_lm_evals_own_and_an_unknown_one_is_refused(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def without_defaults(include_path: str, include_defaults: bool) -> TaskManager:
        asked.append(include_defaults)  # indexing all of lm-eval takes seconds
        return TaskManager(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(quality, "TaskManager", without_defaults)
    with pytest.raises(UserError, match=r"no lm-eval task named 'palimpsest_choise'.*Did you mean 'palimpsest_choice'"):
        QualityBench(corpus, replace(CONFIG, tasks=(CONFIG.yardstick, "palimpsest_choise")), tmp_path)
    assert asked == [True]


def test_a_corpus_that_is_too_small_and_an_unknown_half_are_explained(tmp_path: Path) -> None:
    small = synthetic_corpus(4)
    with pytest.raises(UserError, match="at least 4 are needed"):
        quality_data.write_items("palimpsest_choice", small, CONFIG, tmp_path)
    with pytest.raises(UserError, match="half of the quality split"):
        quality_data.half_of(small, "both")


def test_text_without_spaces_has_long_documents_and_tasks_that_ask_for_words_refuse_it() -> None:
    draw = random.Random(0)
    texts = ["标题 " + "".join(chr(draw.randint(0x4E00, 0x9FA5)) for _ in range(900)) for _ in range(40)]
    chinese = Corpus("chinese", {"train": [], "valid": [], "quality": texts}, 1.0, "chinese")
    found = quality_data.items("palimpsest_bits_per_byte", chinese, CONFIG)
    assert [len(item["text"]) for item in found] == [quality_data.LONGEST] * CONFIG.documents
    for task in ("palimpsest_choice", "palimpsest_last_word"):
        with pytest.raises(UserError, match=f"Its text parts no words by spaces, and {task} asks for words"):
            quality_data.items(task, chinese, CONFIG)
