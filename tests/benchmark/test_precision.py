"""`auto` is what a measurement here says; a result's key holds the precision that it depends on, and no other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BloomConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, MambaConfig, OPTConfig

from palimpsest.attacks.prefix import Prefix
from palimpsest.benchmark.attack import Tools
from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.models import precision
from palimpsest.benchmark.models.precision import Speeds, described, resolved, shapes, speeds_of
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.reader import Reader
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.suites.config import Suite
from palimpsest.benchmark.training.loop import train
from palimpsest.benchmark.training.losses import language_model_loss
from palimpsest.benchmark.training.recipe import Recipe
from tests.conftest import Memorised

QUICK, SLOW = Speeds(bf16=9e11, fp32=1e11), Speeds(bf16=1e9, fp32=1e11)
CONFIG = GPTNeoXConfig(hidden_size=64, num_attention_heads=2, intermediate_size=256, vocab_size=4096)


@pytest.fixture
def suite(tiny: Subject) -> Suite:
    return Suite(
        name="micro", model=str(tiny.folder), per_role=8, seeds=(0,), methods={"none": {}, "npo": {}},
        attacks={"prefix": {}, "benign_finetuning": {}},
    )  # fmt: skip


def here(monkeypatch: Any, speeds: Speeds) -> None:
    """A machine of these speeds."""
    monkeypatch.setattr(precision, "_measured", lambda products, tokens: speeds)


@pytest.mark.parametrize(
    ("speeds", "asked", "expected"),
    [
        (QUICK, "auto", "bf16"),
        (SLOW, "auto", "fp32"),
        (Speeds(1.1e11, 1e11), "auto", "fp32"),
        (SLOW, "bf16", "bf16"),
        (QUICK, "fp32", "fp32"),
    ],
    ids=["bf16 is faster", "bf16 is slower", "bf16 gains less than it costs", "bf16 as asked", "fp32 as asked"],
)
def test_auto_is_the_faster_one_and_what_is_asked_for_stays(speeds: Speeds, asked: str, expected: str, monkeypatch: Any) -> None:
    here(monkeypatch, speeds)
    assert resolved(asked, CONFIG) == expected


def test_asking_for_what_is_slower_warns_once(monkeypatch: Any, caplog: pytest.LogCaptureFixture) -> None:
    here(monkeypatch, SLOW)
    precision._warn.cache_clear()
    for asked in ("auto", "fp32", "bf16", "bf16"):
        resolved(asked, CONFIG)
    (record,) = caplog.records
    assert "bf16 products run at 0.01 times the speed of fp32 ones here" in record.message
    caplog.clear()
    here(monkeypatch, QUICK)
    resolved("bf16", CONFIG)
    assert not caplog.records


def test_speeds_are_measured_once_and_quickly_and_leave_the_threads_as_they_were(monkeypatch: Any) -> None:
    precision._measured.cache_clear()
    samples: list[int] = []
    true = precision._sampled
    monkeypatch.setattr(precision, "_sampled", lambda products, rows: samples.append(rows) or true(products, rows))
    torch.set_num_threads(2)
    try:
        speeds = speeds_of(CONFIG, tokens=100)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert samples in ([8], [8, 64], [8, 64, 100])
    assert min(speeds.bf16, speeds.fp32) > 1e6
    assert speeds_of(CONFIG, tokens=100) is speeds
    assert len(samples) <= 3


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (CONFIG, {(64, 64), (64, 256), (256, 64), (64, 1024)}),
        (LlamaConfig(hidden_size=32, intermediate_size=80, vocab_size=500), {(32, 32), (32, 80), (80, 32), (32, 500)}),
        (GPT2Config(n_embd=32, vocab_size=500), {(32, 32), (32, 128), (128, 32), (32, 500)}),
        (BloomConfig(hidden_size=32, vocab_size=500), {(32, 32), (32, 128), (128, 32), (32, 500)}),
        (OPTConfig(hidden_size=32, ffn_dim=96, vocab_size=500), {(32, 32), (32, 96), (96, 32), (32, 500)}),
        (MambaConfig(hidden_size=32, vocab_size=500), {(32, 32), (32, 64), (64, 32), (32, 500)}),
        (LlamaConfig(hidden_size=4096, intermediate_size=11008), {(1024, 1024)}),
    ],
    ids=["gpt_neox", "llama", "gpt2", "bloom", "opt", "mamba", "wider than is measured"],
)
def test_the_shapes_are_the_models_own(config: Any, expected: set[tuple[int, int]]) -> None:
    assert shapes(config) == expected


def test_training_in_auto_is_training_in_what_it_stands_for(tiny: Subject, monkeypatch: Any) -> None:
    rows = {"text": [Row(tuple(range(5, 30)))]}
    weights = {}
    for name in ("bf16", "fp32"):
        here(monkeypatch, QUICK if name == "bf16" else SLOW)
        auto, plain = (
            train(tiny.fresh(), lambda step: rows, language_model_loss, Recipe(steps=2, precision=p)).state for p in ("auto", name)
        )
        assert all(torch.equal(auto[k], plain[k]) for k in plain)
        weights[name] = plain
    assert any(not torch.equal(weights["bf16"][k], weights["fp32"][k]) for k in weights["fp32"])


def test_reading_in_auto_says_what_it_computed_in(memorised: Memorised, monkeypatch: Any) -> None:
    probes = [*Prefix().probes(memorised.memories[0], Tools(memorised.base))]
    found = []
    for speeds in (QUICK, SLOW):
        here(monkeypatch, speeds)
        reader = Reader(memorised.subject)
        assert reader.used == ""
        found.append((reader.read(probes), reader.used))
    assert [used for _, used in found] == ["bf16", "fp32"]
    assert found[0][0] == found[1][0]


def keys(suite: Suite, store: Store) -> dict[str, str]:
    run = Run(suite, store)
    return {s.label: s.key for s in run.plan}


def test_keys_hold_the_precision_of_training_as_it_was_resolved(suite: Suite, tmp_path: Path, monkeypatch: Any) -> None:
    here(monkeypatch, QUICK)
    low = keys(suite, Store(tmp_path))
    assert low == keys(replace(suite, precision="bf16"), Store(tmp_path))
    here(monkeypatch, SLOW)
    full = keys(suite, Store(tmp_path))
    assert full == keys(replace(suite, precision="fp32"), Store(tmp_path))
    assert low.keys() == full.keys()
    assert [label for label in low if low[label] == full[label]] == ["quality of base"], "all else is a trained model or reads one"


def test_what_only_reads_a_model_has_no_precision_in_its_key(suite: Suite, tmp_path: Path, monkeypatch: Any) -> None:
    here(monkeypatch, SLOW)
    run = Run(suite, Store(tmp_path))
    holds = {s.kind for s in run.plan if "precision" in s.inputs}
    assert holds == {"held", "twin", "attack"}, "an attack of tier 2 or 3 may train"


def test_a_store_goes_on_in_the_precision_of_its_held_model(suite: Suite, tmp_path: Path, monkeypatch: Any) -> None:
    here(monkeypatch, QUICK)
    run = Run(suite, Store(tmp_path))
    assert run.precision == "bf16"
    folder = run.store.folder(run.held(0))
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({}))
    here(monkeypatch, SLOW)
    moved = Run(suite, Store(tmp_path))
    assert moved.precision == "bf16"
    assert Run(replace(suite, precision="fp32"), Store(tmp_path)).precision == "fp32"
    assert Run(suite, Store(tmp_path / "other")).precision == "fp32"
    assert described("auto", "bf16", CONFIG) == (
        "Precision: bf16, as the held model in this store (bf16 products run at 0.01 times the speed of fp32 ones here; "
        "precision=fp32 begins anew)."
    )
    assert described("auto", "fp32", CONFIG) == "Precision: fp32 (bf16 products run at 0.01 times the speed of fp32 ones here)."
    assert described("fp32", "fp32", CONFIG) == "Precision: fp32, as asked."
