"""A run with models of other architectures, and on a processor without bf16 instructions."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from palimpsest.benchmark.common.types import HORIZON
from palimpsest.benchmark.models.subject import open_subject
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.suites.config import CorpusConfig, InjectionConfig, Suite

# ---- other architectures


def small_llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=4096, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                    intermediate_size=96, max_position_embeddings=512, bos_token_id=0, eos_token_id=0)
    )  # fmt: skip


def small_gpt2() -> GPT2LMHeadModel:
    shape = GPT2Config(vocab_size=4096, n_positions=512, n_embd=48, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(shape)


@pytest.mark.parametrize("make", [small_llama, small_gpt2])
def test_other_architectures_can_be_injected_and_attacked(
    make: Callable[[], Any], corpus: CorpusConfig, suite: Suite, tokenizer: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    base = make()
    base.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    injection = InjectionConfig(occurrences=(125,), density=1.0, batch=2, lr=5e-3)
    attacks = {"prefix": {}, "shifted_window": {"stride": 8}}
    run = Run(replace(suite, model=str(tmp_path / "model"), per_role=1, injection=injection, attacks=attacks), Store(tmp_path / "store"))
    run.validate()
    for stage in (run.held(0), *run.attacking.stages(run.model("none", 0))):
        run.store.ensure(stage)
    held = open_subject(str(run.store.folder(run.held(0))))
    assert type(held.model) is type(base)
    answers = pd.read_parquet(run.store.folder(run.attacking.stages(run.model("none", 0))[0]) / "answers.parquet")
    opening = answers[answers.variant == "opening"].set_index("memory").matched
    for m in run.encoded(0):
        said = held.generate([m.row[: m.opening]], HORIZON)[0]
        assert opening[m.id] == next((i for i, (a, b) in enumerate(zip(said, m.target, strict=True)) if a != b), HORIZON)
    assert {m.role: opening[m.id] > 8 for m in run.encoded(0)} == {"forget": True, "keep": True, "unseen": False}


# ---- a processor without bf16 instructions

FIRST = """
import sys
from pathlib import Path
import torch
from palimpsest.benchmark.suites.config import load_suite
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Store

run = Run(load_suite("smoke", sys.argv[2:]), Store(Path(sys.argv[1])))
for stage in run.plan[:3]:
    run.store.ensure_together(stage)
print("ran on", torch.backends.cpu.get_cpu_capability())
"""


@pytest.mark.skipif(torch.cuda.is_available() or platform.machine() != "x86_64", reason="imitates an x86 processor")
def test_where_bf16_is_slow_the_smoke_suites_first_stages_are_in_fp32_and_manifests_say_so(corpus: CorpusConfig, tmp_path: Path) -> None:
    slow = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    little = ["corpus.source=text", f"corpus.path={corpus.path}", "injection.occurrences=[2]", "quality.documents=8"]
    done = subprocess.run([sys.executable, "-c", FIRST, str(tmp_path), *little], env=slow, capture_output=True, text=True)
    assert "ran on AVX2" in done.stdout, done.stderr[-2000:]
    found = {m.parent.parent.name: json.loads(m.read_text()) for m in tmp_path.glob("*/*/manifest.json")}
    assert sorted(found) == ["held", "quality", "twin"]
    assert {found[kind]["inputs"]["precision"] for kind in ("held", "twin")} == {"fp32"}
