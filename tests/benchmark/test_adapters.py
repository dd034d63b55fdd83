"""Adapters and GGUF files are opened as the models that they make, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from torch import Tensor

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.models.opening import ADAPTER
from palimpsest.benchmark.models.subject import Subject, open_subject
from tests.benchmark.model_folders import logits, saved

pytestmark = pytest.mark.usefixtures("quiet_library")


# ---- adapters


@pytest.fixture(params=["weights", "head"])
def adapted(request: Any, tied: Path, tmp_path: Path) -> tuple[Path, Tensor]:
    """A folder with a trained adapter alone, and the logits of the model that it makes of its base; one has a head of its own."""
    torch.manual_seed(3)
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj", "up_proj"], modules_to_save=["lm_head"] if request.param == "head" else None, task_type="CAUSAL_LM"
    )
    model: Any = peft.get_peft_model(Subject(tied).fresh(), config)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.normal_(0, 0.2)
    model.peft_config["default"].base_model_name_or_path = str(tied)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", logits(model.eval())


def test_an_adapter_is_opened_over_its_base(adapted: tuple[Path, Tensor], tmp_path: Path) -> None:
    folder, theirs = adapted
    subject = open_subject(str(folder))
    torch.testing.assert_close(logits(subject.model), theirs, rtol=0, atol=1e-5)
    assert (logits(Subject(tmp_path / "tied").model) - theirs).abs().max() > 0.01
    assert subject.tokenizer("word")["input_ids"], "the base's"
    torch.testing.assert_close(logits(saved(subject, tmp_path / "saved").model), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("part", ["adapter/adapter_model.safetensors", "tied/model.safetensors"])
def test_the_hash_of_an_adapted_model_is_over_both(adapted: tuple[Path, Tensor], part: str, tmp_path: Path) -> None:
    before = Subject(adapted[0]).hash
    file = tmp_path / part
    save_file({k: v + 1 for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    assert Subject(adapted[0]).hash != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, w: save_file({k: v for k, v in w.items() if "layers.0" not in k}, f / ADAPTER), "are not in its files"),
        (lambda f, w: save_file(w | {"base_model.model.x.lora_A.weight": torch.ones(1)}, f / ADAPTER), "are not the model's"),
        (lambda f, w: (f / ADAPTER).rename(f / "adapter_model.bin"), "weights are pickled"),
        (lambda f, w: rebased(f, "../nowhere"), "is an adapter over '../nowhere', which cannot be opened"),
        (lambda f, w: rebased(f, None), "names no base model"),
        (lambda f, w: rebased(f, str(f)), "is an adapter over another one"),
    ],
)  # fmt: skip
def test_a_broken_adapter_is_refused(adapted: tuple[Path, Tensor], change: Callable[..., object], message: str) -> None:
    folder = adapted[0]
    change(folder, load_file(folder / ADAPTER))
    with pytest.raises(UserError, match=message):
        _ = open_subject(str(folder)).model


def rebased(folder: Path, base: str | None) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base}))


# ---- GGUF


def test_a_gguf_file_is_opened_as_the_model_that_it_was_made_from(llama: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    folder = tmp_path / "gguf"
    folder.mkdir()
    as_gguf(gguf, llama, folder / "model.gguf")
    for name in (folder, folder / "model.gguf"):
        torch.testing.assert_close(logits(open_subject(str(name)).model), logits(Subject(llama).model), rtol=0, atol=1e-5)


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF and no more")
    with pytest.raises(
        UserError, match=r"model.gguf (could not be loaded|cannot be read without a package that is not installed: pip install gguf)"
    ):
        _ = open_subject(str(tmp_path)).model


ALPHABET = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "el"]
SPOILT: dict[str, dict[str, Any]] = {
    "no kind of tokenizer": {"add_tokenizer_model": None},
    "no tokens": {"add_token_list": None},
    "no merges": {"add_token_merges": None},
    "merges of other tokens": {"add_token_merges": ["zz yy"]},
    "merges that are none": {"add_token_merges": ["el"]},
    "an end of text that is no token": {"add_eos_token_id": 9999},
    "no heads": {"add_head_count": 0},
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_gguf_file_whose_fields_make_no_tokenizer_is_refused(what: str, llama: Path, tmp_path: Path) -> None:
    def speaks(out: Any) -> None:
        fields = {
            "add_tokenizer_model": "gpt2", "add_token_list": ALPHABET, "add_token_merges": ["e l"], "add_eos_token_id": 0,
        } | SPOILT[what]  # fmt: skip
        for name, given in fields.items():
            if given is not None:
                getattr(out, name)(given)

    as_gguf(pytest.importorskip("gguf"), llama, tmp_path / "model.gguf", speaks)
    refused(tmp_path / "model.gguf")


@pytest.mark.parametrize("size", [0, 10, 300, 20_000])
def test_a_gguf_file_that_is_cut_short_has_no_tokenizer_and_no_configuration(size: int, llama: Path, tmp_path: Path) -> None:
    as_gguf(pytest.importorskip("gguf"), llama, tmp_path / "model.gguf")
    (tmp_path / "model.gguf").write_bytes((tmp_path / "model.gguf").read_bytes()[:size])
    refused(tmp_path / "model.gguf")
    with pytest.raises(UserError, match=r"model.gguf could not be loaded as a causal language model: "):
        _ = Subject(tmp_path / "model.gguf").configs


def refused(file: Path) -> None:
    """Its tokenizer is the user's to mend, in one line."""
    with pytest.raises(
        UserError, match=r"No tokenizer in .*model.gguf: .* Expected a whole GGUF file .* Convert the model again"
    ) as raised:
        _ = Subject(file).tokenizer
    assert "\n" not in str(raised.value)


def as_gguf(gguf: Any, llama: Path, file: Path, more: Callable[[Any], None] = lambda out: None) -> None:
    """What llama.cpp's converter writes of a Llama, with no tokenizer but what `more` adds; it keeps rotated queries and keys in
    another order.
    """
    config = json.loads((llama / "config.json").read_text())
    out = gguf.GGUFWriter(file, "llama")
    out.add_context_length(128)
    out.add_embedding_length(32)
    out.add_block_count(2)
    out.add_feed_forward_length(64)
    out.add_head_count(4)
    out.add_head_count_kv(4)
    out.add_vocab_size(300)
    out.add_rope_dimension_count(8)
    out.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, weight in load_file(llama / "model.safetensors").items():
        if "q_proj" in name or "k_proj" in name:
            weight = weight.reshape(4, 2, 4, 32).swapaxes(1, 2).reshape(32, 32)
        out.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight.contiguous().numpy())
    more(out)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
