"""Low-rank adapters: what is trained, what is merged, resuming, and the same result under every ZeRO stage and on two processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import Batch
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.training.lora import Lora, adapt, merged
from palimpsest.benchmark.training.losses import language_model_loss
from palimpsest.benchmark.training.recipe import Recipe
from palimpsest.benchmark.training.trainer import Trainer
from tests.benchmark.parity_worker import rows, write_models
from tests.conftest import Memorised
from tests.ranks import ranks

LORA = Lora(rank=2, alpha=8.0)
RECIPE = Recipe(lr=1e-2, steps=4, micro_batch=2)
STAGES = (0, 1, 2, 3)


def batch_at(step: int) -> Batch:
    """Five rows of unequal length, or four: one of two ranks gets less, or nothing."""
    return {"text": rows("text")[step % 2 :]}


def trained(start: Subject, stage: int = 0, **given: Any) -> Subject:
    return Trainer("fp32", f"zero{stage}", seed=1).fit(start, batch_at, language_model_loss, RECIPE, lora=LORA, **given)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    write_models(folder)
    return folder


@pytest.fixture(scope="module")
def straight(models: Path) -> dict[str, Tensor]:
    """Weights after training adapters under ZeRO-0."""
    return state_of(trained(Subject(models / "neox")))


def state_of(subject: Subject) -> dict[str, Tensor]:
    return {k: v.detach() for k, v in subject.fresh().named_parameters()}


def furthest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) for k in a)


# ---- adapting and merging


@pytest.mark.parametrize("architecture", ["neox", "gpt2"])
def test_a_merged_state_says_what_the_adapted_model_says(architecture: str, models: Path, tmp_path: Path):
    if architecture == "gpt2":  # its matrices are stored the other way round
        torch.manual_seed(0)
        GPT2LMHeadModel(GPT2Config(vocab_size=512, n_embd=32, n_layer=2, n_head=2, n_positions=64)).save_pretrained(tmp_path)
    subject = Subject(tmp_path if architecture == "gpt2" else models / "neox-tied")
    model = subject.fresh().eval()
    names = dict(model.named_parameters()).keys()
    ids = torch.tensor([rows("text")[1].ids])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        adapt(model, LORA, seed=3)
        assert torch.equal(model(input_ids=ids).logits, before), "adapters begin as nothing"
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.1)
        adapted = model(input_ids=ids).logits
        state = merged(model, {k: v.detach().clone() for k, v in model.named_parameters()})
        assert state.keys() == names
        assert float((adapted - before).abs().max()) > 0.1
        torch.testing.assert_close(subject.with_state(state).model(input_ids=ids.to(device())).logits.cpu(), adapted, atol=1e-5, rtol=1e-5)


def test_the_same_seed_gives_the_same_adapters_and_disturbs_no_other_draw(models: Path):
    def draw(seed: int) -> tuple[dict[str, Tensor], Tensor]:
        torch.manual_seed(9)
        model = Subject(models / "neox").fresh()
        adapt(model, LORA, seed)
        return {k: v.detach() for k, v in model.named_parameters() if "lora_A" in k}, torch.rand(3)

    (a, after), (b, _), (c, other) = draw(1), draw(1), draw(2)
    assert furthest(a, b) == 0 < furthest(a, c)
    assert torch.equal(after, other)


def test_only_matrices_that_are_trained_get_adapters(models: Path):
    model = Subject(models / "neox").fresh()
    kept = "gpt_neox.layers.1.mlp.dense_4h_to_h"
    for name, p in model.named_parameters():
        p.requires_grad_(name == f"{kept}.weight")
    adapt(model, LORA, 0)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [f"{kept}.lora_{x}.default.weight" for x in "AB"]


def test_a_model_without_anything_to_adapt_is_the_users_error(models: Path):
    model = Subject(models / "neox").fresh().requires_grad_(False)
    with pytest.raises(UserError, match="nothing to adapt"):
        adapt(model, LORA, 0)
    with pytest.raises(UserError, match="at least 1"):
        Lora(rank=0)


# ---- training


def test_training_changes_the_matrices_of_the_body_by_the_rank_and_nothing_else(models: Path, straight: dict[str, Tensor]):
    start = state_of(Subject(models / "neox"))
    changed = {k for k in start if not torch.equal(start[k], straight[k])}
    assert changed == {k for k in start if ".layers." in k and start[k].ndim == 2}
    for name in changed:
        assert 1 <= int(torch.linalg.matrix_rank((straight[name] - start[name]).double(), rtol=1e-3)) <= LORA.rank
        assert float((straight[name] - start[name]).abs().max()) > 1e-3


def test_a_stop_sees_merged_weights(models: Path, straight: dict[str, Tensor]):
    seen: dict[int, dict[str, Tensor]] = {}
    start = Subject(models / "neox")
    trained(start, stops=(2, 4), at_stop=lambda step, subject: seen.update({step: state_of(subject)}))
    assert furthest(seen[4], straight) == 0
    assert furthest(seen[2], straight) > 1e-4 < furthest(seen[2], state_of(start))


class StoppedError(Exception):
    """Stands for whatever ends a run early."""


def test_an_interrupted_run_resumes_to_the_same_weights(models: Path, straight: dict[str, Tensor], tmp_path: Path):
    def interrupt(what: str, step: int, of: int) -> None:
        if step == 3:
            raise StoppedError

    def fit(progress: Any) -> Subject:
        trainer = Trainer("fp32", seed=1, resume=tmp_path / "run", save_every=0, progress=progress)
        return trainer.fit(Subject(models / "neox"), batch_at, language_model_loss, RECIPE, lora=LORA)

    with pytest.raises(StoppedError):
        fit(interrupt)
    steps: list[int] = []
    assert furthest(state_of(fit(lambda what, step, of: steps.append(step))), straight) == 0
    assert steps == [4]


def test_bf16_trains_too(memorised: Memorised):
    rows_of = memorised.forget
    trainer = Trainer("bf16", seed=1)
    trainer.fit(memorised.base, lambda step: {"text": rows_of}, language_model_loss, Recipe(lr=1e-2, steps=6), lora=Lora())
    assert trainer.steps[-1]["nll"] < trainer.steps[0]["nll"] - 0.2


@pytest.mark.parametrize("stage", STAGES[1:])
def test_every_zero_stage_gives_the_weights_of_zero_0(stage: int, models: Path, straight: dict[str, Tensor]):
    assert furthest(state_of(trained(Subject(models / "neox"), stage)), straight) < 1e-4


def test_two_processes_give_the_weights_of_one(models: Path, straight: dict[str, Tensor]):
    ranks(2, work, models)
    for stage in (0, 3):
        for rank in "01":
            found = load_file(models / f"zero{stage}-rank{rank}.safetensors")
            assert furthest(found, straight) < 1e-4, (stage, rank)


def work(folder: Path) -> None:
    """One of two ranks: train under ZeRO-0 and ZeRO-3, and write the weights."""
    torch.set_num_threads(1)
    for stage in (0, 3):
        state = state_of(trained(Subject(folder / "neox"), stage))
        save_file({k: v.contiguous() for k, v in state.items()}, folder / f"zero{stage}-rank{os.environ['RANK']}.safetensors")
