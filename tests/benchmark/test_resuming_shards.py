"""Under ZeRO 1 to 3 an interrupted training goes on from parts that each rank saved, to the weights that it would have had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.models.weights import places
from palimpsest.benchmark.training.engine import deepspeed_config
from palimpsest.benchmark.training.loop import train
from palimpsest.benchmark.training.lora import Lora
from palimpsest.benchmark.training.losses import language_model_loss
from palimpsest.benchmark.training.recipe import Recipe
from palimpsest.benchmark.training.trainer import Trainer
from tests.benchmark.model_folders import SHAPE, made
from tests.benchmark.resume_worker import STOP, StoppedError, compared, stop, work
from tests.benchmark.test_resuming import Dual
from tests.benchmark.uneven_rows import furthest, uneven
from tests.ranks import ranks

SETTINGS = ("zero1", "zero2", "zero3")
OFFLOADED = ("zero2-offload", "zero3-offload")


@pytest.mark.parametrize("setting", [*SETTINGS, *OFFLOADED])
def test_an_interrupted_run_goes_on_to_the_same_weights(tiny: Subject, tmp_path: Path, setting: str) -> None:
    assert compared(tiny, setting, tmp_path, None, Dual) == (list(range(STOP + 1, 6)), True, 0.0)
    left = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*"))
    assert left == ["state.json", "step4", "step4/rank0.safetensors"], "the newest step alone, in safetensors and JSON"


def test_two_ranks_go_on_each_from_its_part(tokenizer: Any, tmp_path: Path) -> None:
    """On a Llama in which two heads share keys and values."""
    shape = LlamaConfig(**SHAPE | {"vocab_size": 4096, "num_key_value_heads": 2})
    ranks(2, work, made(tmp_path / "llama", shape, tokenizer), tmp_path, SETTINGS)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found == {s: [list(range(STOP + 1, 6)), True, 0.0] for s in SETTINGS}
    assert sorted(f.name for f in (tmp_path / "zero3" / "step4").iterdir()) == ["rank0.safetensors", "rank1.safetensors"]


@pytest.mark.parametrize("spoil", ["another setting", "half of it", "no such step", "not JSON"])
def test_parts_that_do_not_fit_are_left_alone_and_training_starts_again(
    tiny: Subject, tmp_path: Path, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = Recipe(lr=1e-3, steps=5, precision="fp32", deepspeed="zero2")
    with pytest.raises(StoppedError):
        train(tiny.fresh(), uneven, language_model_loss, recipe, resume=tmp_path, save_every=0, progress=stop)
    state = tmp_path / "state.json"
    told: dict[str, Any] = json.loads(state.read_text())
    changed = {
        "another setting": told | {"ranks": 2},
        "half of it": told | {"weights": told["weights"][:1]},
        "no such step": told | {"step": 1},
    }
    state.write_text(json.dumps(changed[spoil]) if spoil in changed else "{")
    seen: list[int] = []
    resumed = train(tiny.fresh(), uneven, language_model_loss, recipe, resume=tmp_path, progress=lambda what, done, of: seen.append(done))
    assert seen == [1, 2, 3, 4, 5]
    said = "saved under ZeRO-2 on 2 ranks, and under ZeRO-2 on 1 ranks it begins anew"
    assert (said in caplog.text) == (spoil == "another setting")
    assert furthest(resumed.state, train(tiny.fresh(), uneven, language_model_loss, recipe).state) == 0.0


@pytest.mark.parametrize("left", [0, 100])
def test_a_damaged_part_is_named_and_training_begins_anew(
    tiny: Subject, tmp_path: Path, caplog: pytest.LogCaptureFixture, left: int
) -> None:
    recipe = Recipe(lr=1e-3, steps=5, precision="fp32", deepspeed="zero2")
    with pytest.raises(StoppedError):
        train(tiny.fresh(), uneven, language_model_loss, recipe, resume=tmp_path, save_every=0, progress=stop)
    (part,) = tmp_path.glob("step*/rank0.safetensors")
    part.write_bytes(part.read_bytes()[:left])
    seen: list[int] = []
    resumed = train(tiny.fresh(), uneven, language_model_loss, recipe, resume=tmp_path, progress=lambda what, done, of: seen.append(done))
    assert seen == [1, 2, 3, 4, 5]
    assert furthest(resumed.state, train(tiny.fresh(), uneven, language_model_loss, recipe).state) == 0.0
    assert f"cannot be read ({part}: " in caplog.text
    assert "begins anew" in caplog.text


@pytest.mark.parametrize("setting", OFFLOADED)
def test_weights_that_compute_in_bf16_are_given_back_in_fp32(tiny: Subject, setting: str) -> None:
    """A step smaller than bf16 can hold is not lost."""
    recipe = Recipe(lr=1e-6, steps=2, precision="bf16", deepspeed=setting)
    before = dict(tiny.fresh().named_parameters())
    after = train(tiny.fresh(), uneven, language_model_loss, recipe).state
    assert {v.dtype for v in after.values()} == {torch.float32}
    moved = [float((after[k] - before[k].bfloat16().float()).abs().max()) for k in before]
    assert all(0 < m < 1e-5 for m in moved)


def test_bf16_weights_are_refused_where_they_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the precision is fp32; say precision=bf16"):
        deepspeed_config("zero3-offload", "fp32", 1.0, 1)
    whole = tmp_path / "whole.json"
    whole.write_text('{"bf16": {"enabled": true}}')
    with pytest.raises(UserError, match="stage 1, 2 or 3"):
        deepspeed_config(str(whole), "bf16", 1.0, 1)


@pytest.mark.parametrize("setting", OFFLOADED)
def test_what_is_not_trained_comes_back_to_the_last_bit(tiny: Subject, setting: str) -> None:
    """An engine rounds all weights to bf16, and has those that it trains in fp32 beside the optimizer; others it has nowhere."""
    lora = Lora(rank=2, alpha=4.0)
    made = Trainer("bf16", setting).fit(tiny, uneven, language_model_loss, Recipe(lr=1e-4, steps=2), lora=lora)
    before, after = (s.fresh().state_dict() for s in (tiny, made))
    adapted = set(places(tiny.fresh()))
    assert all(torch.equal(x, after[k]) for k, x in before.items() if k not in adapted)
    moved = [float((after[k] != x).float().mean()) for k, x in before.items() if k in adapted]
    assert min(moved) > 0.5, "a small update of all entries is not rounded away"
