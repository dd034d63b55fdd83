"""Opening and saving models: every weight is read as it stands, and comes back as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as T
from torch import nn
from transformers import AutoModelForCausalLM

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.models import saving
from palimpsest.benchmark.models.subject import Subject, open_subject
from palimpsest.benchmark.quality.harness import SubjectLM
from tests.benchmark.model_folders import SHAPE, configured, logits, made, saved, weighted

pytestmark = pytest.mark.usefixtures("quiet_library")


GPT2 = {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
EXPERTS = SHAPE | {"num_key_value_heads": 2, "num_local_experts": 4}
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "llama": lambda: T.LlamaConfig(**SHAPE),
    "llama, tied": lambda: T.LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "gemma": lambda: T.GemmaConfig(**SHAPE, head_dim=8, num_key_value_heads=4),
    "gemma 3": lambda: T.Gemma3TextConfig(**SHAPE, head_dim=8, num_key_value_heads=2),
    "gemma 3, multimodal": lambda: T.Gemma3Config(
        text_config=SHAPE | {"num_key_value_heads": 1, "head_dim": 16},
        vision_config={
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 28,
            "patch_size": 14,
        },
    ),
    "opt": lambda: T.OPTConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64, word_embed_proj_dim=16
    ),
    "bloom": lambda: T.BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=4),
    "falcon": lambda: T.FalconConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=False),
    "gpt-2": lambda: T.GPT2Config(**GPT2),
    "gpt-j": lambda: T.GPTJConfig(**GPT2, rotary_dim=4),
    "gpt-neox": lambda: T.GPTNeoXConfig(**SHAPE),
    "gpt-neox, tied": lambda: T.GPTNeoXConfig(**SHAPE, tie_word_embeddings=True, attention_bias=False),
    "phi": lambda: T.PhiConfig(**SHAPE),
    "cohere": lambda: T.CohereConfig(**SHAPE),
    "mixtral": lambda: T.MixtralConfig(**EXPERTS),
    "gpt-oss": lambda: T.GptOssConfig(**EXPERTS, head_dim=8, num_experts_per_tok=2),
    "mamba": lambda: T.MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=8),
    "mamba-2": lambda: T.Mamba2Config(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=8, head_dim=8, n_groups=1, chunk_size=16
    ),
    "rwkv": lambda: T.RwkvConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, context_length=128),
    "recurrent gemma": lambda: T.RecurrentGemmaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, lru_width=32
    ),
    "lfm2": lambda: T.Lfm2Config(**SHAPE, num_key_value_heads=2, layer_types=["conv", "full_attention"]),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_opened_and_comes_back_from_saving_as_it_was(name: str, tokenizer: Any, tmp_path: Path) -> None:
    folder = made(tmp_path / "made", ARCHITECTURES[name](), tokenizer)
    theirs = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())
    subject = open_subject(str(folder))
    torch.testing.assert_close(logits(subject.model), theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits(saved(subject, tmp_path / "saved").model), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if "tied" in n or n in ("gemma 3, multimodal", "opt", "gpt-2", "mamba", "lfm2")])
def test_a_head_of_its_own_survives_opening_saving_training_and_measuring(name: str, tokenizer: Any, tmp_path: Path) -> None:
    """Though the configuration calls it tied, as that of a merged adapter does."""
    folder = made(tmp_path / "made", ARCHITECTURES[name](), tokenizer)
    width = open_subject(str(folder)).model.get_output_embeddings().weight.shape
    weighted(folder, lambda w: w | {"lm_head.weight": torch.randn(width) * 0.3})
    theirs = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())
    subject = open_subject(str(folder))
    again = saved(subject, tmp_path / "saved")
    assert json.loads((again.folder / "config.json").read_text())["tie_word_embeddings"] is False
    state = {k: v.clone() for k, v in subject.fresh().named_parameters()}  # as training leaves it
    for one in (subject, again, subject.with_state(state), saved(subject.with_state(state), tmp_path / "trained")):
        SubjectLM(one, 4)  # lm-eval ties what the configuration calls tied
        torch.testing.assert_close(logits(one.model), theirs, rtol=0, atol=1e-6)


def test_a_method_that_unties_the_head_gets_what_it_made(tied: Path, tmp_path: Path) -> None:
    held = Subject(tied)
    model = held.fresh()
    model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight))
    changed = held.with_state(model.state_dict())
    assert torch.equal(logits(changed.model), logits(model.eval()))
    assert torch.equal(logits(saved(changed, tmp_path / "saved").model), logits(model))


def test_what_does_not_survive_saving_is_not_saved_in_silence(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = saving.write

    def forgetful(model: Any, folder: Path, dtype: torch.dtype) -> None:
        write(model, folder, dtype)
        configured(folder, hidden_act="relu")

    monkeypatch.setattr("palimpsest.benchmark.models.subject.write", forgetful)
    with pytest.raises(UserError, match=r"LlamaForCausalLM does not survive saving: read again, its logits differ by"):
        saved(Subject(llama), tmp_path / "saved")


def test_tables_that_old_releases_saved_beside_the_weights_are_no_fault(tokenizer: Any, tmp_path: Path) -> None:
    mask = torch.ones(1, 1, 128, 128).tril().bool()
    old = {
        "gpt-2": lambda w: {k.removeprefix("transformer."): v for k, v in w.items()}
        | {"h.0.attn.bias": mask, "h.1.attn.masked_bias": torch.tensor(-1e4)},
        "gpt-neox": lambda w: w | {
            f"gpt_neox.layers.0.attention.{k}": v
            for k, v in {"bias": mask, "masked_bias": torch.tensor(-1e9), "rotary_emb.inv_freq": torch.ones(4)}.items()
        },
        "llama": lambda w: w | {"model.layers.1.self_attn.rotary_emb.inv_freq": torch.ones(4)},
        "gpt-j": lambda w: w | {"transformer.h.0.attn.bias": mask, "transformer.h.0.attn.masked_bias": torch.tensor(-1e9)},
    }  # fmt: skip
    for name, change in old.items():
        folder = made(tmp_path / name, ARCHITECTURES[name](), tokenizer)
        new = logits(open_subject(str(folder)).model)
        weighted(folder, change)
        assert torch.equal(logits(open_subject(str(folder)).model), new), name


def test_all_that_ends_a_text_is_kept_by_saving_and_makes_another_model(tied: Path, tmp_path: Path) -> None:
    """Chat models name several ids in generation_config.json: what is said ends there, of a model made of such a one too."""
    plain = Subject(tied)
    shutil.copytree(tied, tmp_path / "chat")
    (tmp_path / "chat" / "generation_config.json").write_text('{"eos_token_id": [0, 17, 18]}')
    chat = Subject(tmp_path / "chat")
    assert plain.ends < chat.ends == {*plain.ends, 0, 17, 18}
    assert chat.hash != plain.hash
    (tmp_path / "made").mkdir()
    chat.with_state(chat.fresh().state_dict()).save(tmp_path / "made")
    assert Subject(tmp_path / "made").ends == chat.ends
