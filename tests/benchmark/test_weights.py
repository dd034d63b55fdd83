"""What counts as the matrices of a body, over architectures; adapters reach all of them, and training has no dropout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as library
from transformers import AutoModelForCausalLM, PretrainedConfig

from palimpsest.benchmark.attack import Workshop
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.plugins import find
from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.models.blocks import down_projection
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.models.weights import as_kept, by_output, covered, each_matrix, linear_weights
from palimpsest.benchmark.training.loop import _without_dropout
from palimpsest.benchmark.training.lora import Lora, adapt, merged
from palimpsest.benchmark.training.losses import language_model_loss
from palimpsest.benchmark.training.recipe import Recipe
from palimpsest.benchmark.training.trainer import Trainer
from tests.conftest import Memorised

WIDTH = dict(vocab_size=512, hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
LLAMA = WIDTH | dict(intermediate_size=128, max_position_embeddings=128, num_key_value_heads=2)
MODELS: dict[str, PretrainedConfig] = {
    "neox": library.GPTNeoXConfig(**WIDTH, intermediate_size=128, max_position_embeddings=128),
    "gpt2": library.GPT2Config(vocab_size=512, n_embd=64, n_layer=2, n_head=4, n_positions=128),
    "opt": library.OPTConfig(**WIDTH, ffn_dim=128, word_embed_proj_dim=64, max_position_embeddings=128),
    "bloom": library.BloomConfig(vocab_size=512, hidden_size=64, n_layer=2, n_head=4),
    "mixtral": library.MixtralConfig(**LLAMA, num_local_experts=4),
    "qwen3_moe": library.Qwen3MoeConfig(**LLAMA, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, head_dim=16),
    "gpt_oss": library.GptOssConfig(
        **LLAMA, num_local_experts=4, num_experts_per_tok=2, head_dim=16, rope_parameters={"rope_type": "default", "rope_theta": 1e4}
    ),
    "mamba": library.MambaConfig(vocab_size=512, hidden_size=64, num_hidden_layers=2),
    "rwkv": library.RwkvConfig(vocab_size=512, hidden_size=64, num_hidden_layers=2, context_length=64),
}
MIXTURES = ("mixtral", "qwen3_moe", "gpt_oss")
IDS = torch.arange(10, 50)[None]


def made(name: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(MODELS[name]).eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(IDS, use_cache=False).logits


@pytest.mark.parametrize("name", MODELS)
def test_at_least_nine_tenths_of_the_body_are_covered(name: str) -> None:
    model = made(name)
    assert 0.9 < covered(model) <= 1
    names = linear_weights(model).keys()
    assert not any(part in n for n in names for part in ("embed", "wte", "wpe", "lm_head"))


@pytest.mark.parametrize("name", MODELS)
def test_matrices_turned_by_output_are_kept_as_they_were(name: str) -> None:
    model = made(name)
    turned = by_output(model)
    assert all(w.ndim == 2 for w in turned.values())
    back, kept = as_kept(model, turned), linear_weights(model)
    assert back.keys() == kept.keys()
    assert all(torch.equal(back[k], kept[k]) for k in kept)


@pytest.mark.parametrize("name", ["gpt2", *MIXTURES])
def test_a_row_by_output_is_what_makes_one_output(name: str) -> None:
    model = made(name)
    for kept, turned in zip(linear_weights(model).values(), by_output(model).values(), strict=True):
        turned_round = name in ("gpt2", "gpt_oss") and (kept.ndim == 3 or name == "gpt2")
        experts = kept if kept.ndim == 3 else kept[None]
        assert torch.equal(turned, torch.cat([e.T if turned_round else e for e in experts]))


def test_a_change_is_made_to_each_expert_alone() -> None:
    weight = torch.stack([torch.ones(2, 3), 10 * torch.ones(2, 3)])
    assert torch.equal(each_matrix(lambda w: w / w.max(), weight), torch.ones(2, 2, 3))


@pytest.mark.parametrize("name", [n for n in MODELS if n != "mamba"])
def test_adapters_on_every_matrix_merge_to_the_function_that_was_trained(name: str) -> None:
    adapted, plain = made(name), made(name)
    adapt(adapted, Lora(2), seed=0)
    torch.manual_seed(1)
    for key, p in adapted.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(p, std=0.05)
    before, trained = logits(plain), logits(adapted)
    state = merged(adapted, {k: p.detach() for k, p in adapted.named_parameters()})
    changed = {k for k, w in linear_weights(plain).items() if not torch.equal(w, state[k])}
    assert changed == linear_weights(plain).keys()
    plain.load_state_dict(state, strict=False)
    assert (trained - before).abs().max() > 0.05
    assert (trained - logits(plain)).abs().max() < 1e-4


def test_an_architecture_that_adapters_cannot_reach_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="MambaForCausalLM cannot be trained with LoRA"):
        adapt(made("mamba"), Lora(2), seed=0)


@pytest.mark.parametrize("stage", [0, 3])
def test_experts_are_trained_by_adapters_under_zero(stage: int, tmp_path: Path) -> None:
    made("mixtral").save_pretrained(tmp_path)
    start = Subject(tmp_path)
    batch = {"text": [Row(tuple(range(10 + k, 50 + k)), name=str(k)) for k in range(4)]}
    trained = Trainer("fp32", f"zero{stage}", seed=1).fit(
        start, lambda step: batch, language_model_loss, Recipe(lr=1e-2, steps=3), lora=Lora(2)
    )
    before, after = start.fresh().state_dict(), trained.fresh().state_dict()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved == linear_weights(start.fresh()).keys()


@pytest.mark.parametrize("name", MODELS)
def test_two_passes_in_training_give_the_same_logits(name: str) -> None:
    model = made(name).train()
    _without_dropout(model)
    assert torch.equal(logits(model), logits(model))


@pytest.mark.parametrize("name", MIXTURES)
def test_methods_that_need_one_mlp_a_block_refuse_mixtures(name: str) -> None:
    with pytest.raises(UserError, match="mixture of experts"):
        down_projection(made(name), 0)


def test_sparse_finetuning_refuses_a_body_that_it_would_hardly_reach() -> None:
    method: Any = find("method", "sparse_finetuning").make({})
    with pytest.raises(UserError, match="mixture of experts"):
        method.choose(made("mixtral"), None)


@pytest.mark.parametrize("attack", ["quantise", "prune", "relearn_lora"])
def test_a_change_of_all_matrices_says_what_share_it_reached(attack: str, memorised: Memorised) -> None:
    fields = {"relearn_lora": {"steps": 1, "points": [], "shares": [0.5]}}.get(attack, {})
    instance: Any = find("attack", attack).make(fields)
    workshop = Workshop(memorised.base, trainer=lambda purpose: Trainer("fp32"))
    changes = list(instance.tamper(memorised.subject, memorised.forget[:2], workshop))
    assert {c.covered for c in changes} == {1.0}


def test_a_deep_rwkv_is_saved_as_it_was_read_after_it_was_asked(tmp_path: Path, tokenizer: Any) -> None:
    torch.manual_seed(0)
    config = library.RwkvConfig(vocab_size=4096, hidden_size=32, num_hidden_layers=8, context_length=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "first")
    tokenizer.save_pretrained(tmp_path / "first")
    truth = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "first").eval())
    first = Subject(tmp_path / "first")
    assert (logits(first.model) - truth).abs().max() < 1e-4
    (tmp_path / "again").mkdir()
    first.save(tmp_path / "again")
    assert torch.equal(logits(Subject(tmp_path / "again").model), logits(first.model))
    before, after = first.fresh().state_dict(), first.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
