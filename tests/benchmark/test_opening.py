"""Opening and saving models: every weight is read as it stands, or an error names what is wrong and the cure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as T
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import Probe
from palimpsest.benchmark.models import saving
from palimpsest.benchmark.models.opening import ADAPTER
from palimpsest.benchmark.models.subject import Subject, open_subject
from palimpsest.benchmark.quality.harness import SubjectLM
from palimpsest.benchmark.reading.reader import Reader
from palimpsest.benchmark.training.losses import language_model_loss
from palimpsest.benchmark.training.recipe import Recipe
from palimpsest.benchmark.training.trainer import Trainer
from tests.conftest import Memorised

SHAPE = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 128,
}  # fmt: skip
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


@pytest.fixture(autouse=True)
def _no_tables() -> Iterator[None]:
    """What the library prints about weights is its own affair."""
    before = T.logging.get_verbosity()
    T.logging.set_verbosity_error()
    yield
    T.logging.set_verbosity(before)


def made(folder: Path, config: Any, tokenizer: Any) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> dict[bool, Path]:
    """A tiny Llama with a head of its own (False) and one that is tied (True)."""
    folder = tmp_path_factory.mktemp("llamas")
    return {tied: made(folder / str(tied), T.LlamaConfig(**SHAPE, tie_word_embeddings=tied), tokenizer) for tied in (False, True)}


@pytest.fixture
def llama(llamas: dict[bool, Path], tmp_path: Path) -> Path:
    return shutil.copytree(llamas[False], tmp_path / "llama")


@pytest.fixture
def tied(llamas: dict[bool, Path], tmp_path: Path) -> Path:
    return shutil.copytree(llamas[True], tmp_path / "tied")


def configured(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def weighted(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(torch.arange(20, 40)[None]).logits


def saved(subject: Subject, folder: Path) -> Subject:
    folder.mkdir()
    subject.save(folder)
    return open_subject(str(folder))


# ---- models that are refused


def filled(name: str, value: float) -> Callable[[Path], None]:
    return lambda folder: weighted(folder, lambda w: w | {name: torch.full_like(w[name], value)})


def renamed(change: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda folder: weighted(folder, lambda w: {change(k): v for k, v in w.items()})


def without(part: str) -> Callable[[Path], None]:
    return lambda folder: weighted(folder, lambda w: {k: v for k, v in w.items() if part not in k})


def quantised(**how: Any) -> Callable[[Path], None]:
    return lambda folder: configured(folder, quantization_config=how)


Q = "model.layers.0.self_attn.q_proj"
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "compiled": (renamed(lambda k: "_orig_mod." + k), r"21 weights of the model are not in .* '_orig_mod.' .*torch.compile"),
    "compiled inside": (renamed(lambda k: k.replace("model.", "model._orig_mod.", 1)), r"'_orig_mod.' in the names is the work of a wrapper"),  # noqa: E501
    "in a wrapper": (renamed(lambda k: "module." + k), r"21 in its files are not the model's \(module.*'module.' .*DeepSpeed"),
    "a layer short": (without("layers.1."), r"9 weights of the model are not in its files \(model.layers.1.input_"),
    "a weight short": (without(f"{Q}.weight"), rf"1 weights of the model are not in its files \({Q}.weight\)"),
    "without its head": (without("lm_head"), r"not in its files \(lm_head.weight\). .* tie_word_embeddings: true"),
    "one weight too many": (lambda f: weighted(f, lambda w: w | {"v_head.weight": torch.ones(2)}), r"files .* \(v_head.weight\)"),
    "unmerged adapters": (
        renamed(lambda k: k.replace("q_proj.weight", "q_proj.base_layer.weight")), r"Adapters stand beside the weights: merge them",
    ),
    "packed, and says nothing": (renamed(lambda k: k.replace("q_proj.weight", "q_proj.qweight")), r"These are quantised weights"),
    "partitioned": (
        lambda f: weighted(f, lambda w: {k: torch.empty(0) if "layers.0" in k else v for k, v in w.items()}),
        r"9 have another shape .* is \(0,\), expected .* ZeRO-3 .* zero_to_fp32.py",
    ),
    "another vocabulary": (lambda f: configured(f, vocab_size=500), r"vocab_size=500, the weights have 300 rows"),
    "another width": (lambda f: configured(f, intermediate_size=48), r"6 have another shape .*Bring the config.json that belongs"),
    "not a number": (filled("model.norm.weight", float("nan")), r"model.norm.weight is not finite \(NaN or infinity\)"),
    "infinite": (filled(f"{Q}.weight", float("inf")), rf"{Q}.weight is not finite"),
    "too large to compute with": (filled("lm_head.weight", 3e38), r"weights are finite and its logits are not"),
    "bitsandbytes": (quantised(quant_method="bitsandbytes", load_in_4bit=True), r"by bitsandbytes, .*: pip install bitsandbytes; or "),
    "bitsandbytes, as once written": (quantised(load_in_8bit=True), r"pip install bitsandbytes"),
    "gptq": (quantised(quant_method="gptq", bits=4), r"by gptq, which is not installed: pip install gptqmodel optimum; or"),
    "awq": (quantised(quant_method="awq", bits=4), r"pip install gptqmodel"),
    "compressed-tensors": (quantised(quant_method="compressed-tensors"), r"pip install compressed-tensors"),
    "code of its own": (
        lambda f: configured(f, auto_map={"AutoModelForCausalLM": "modeling.Mine"}),
        r"code of its own \(auto_map: AutoModelForCausalLM\), which is never run here. The library has a llama of its own",
    ),
    "an unknown architecture": (lambda f: configured(f, model_type="nonsense"), r"could not be loaded as a causal language model: .*nonsense"),  # noqa: E501
    "no JSON": (lambda f: (f / "config.json").write_text("{"), r"config.json is not JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), r"config.json: expected a JSON object, not list"),
    "cut short": (lambda f: (f / "model.safetensors").write_bytes(b"1234567890"), r"could not be loaded as a causal language model"),
    "no configuration": (lambda f: (f / "config.json").unlink(), r"has no config.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"it has no weights. Expected model.safetensors"),
    "pickled": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), r"its weights are pickled \(pytorch_model.bin\)"),
    "an adapter too": (lambda f: (f / "adapter_config.json").write_text("{}"), r"holds an adapter and weights of a whole model"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_broken_model_is_refused_by_name_and_with_the_cure(what: str, llama: Path) -> None:
    change, message = HOSTILE[what]
    change(llama)
    with pytest.raises(UserError, match=message) as raised:
        _ = open_subject(str(llama)).model
    assert "\n" not in str(raised.value)


def test_a_place_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no model directory or GGUF file"):
        open_subject(str(tmp_path / "model.gguf"))
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="holds 2 GGUF files; name one of them"):
        open_subject(str(tmp_path))


# ---- models that are opened, saved and opened again


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


# ---- weights that are not finite


def test_new_weights_that_are_not_finite_are_never_opened_or_saved(llama: Path, tmp_path: Path) -> None:
    state = {k: v.clone() for k, v in Subject(llama).fresh().named_parameters()}
    state["model.norm.weight"][3] = float("nan")
    diverged = Subject(llama).with_state(state)
    for attempt in (diverged.fresh, lambda: diverged.model, lambda: saved(diverged, tmp_path / "saved")):
        with pytest.raises(UserError, match=r"with new weights: model\.norm\.weight is not finite"):
            attempt()
    assert not list((tmp_path / "saved").iterdir())


def test_training_that_ends_in_infinity_names_weights_and_step(memorised: Memorised) -> None:
    batch = {"text": memorised.forget}
    with pytest.raises(UserError, match=r"The weights after step 1, the last: gpt_neox.* and \d+ more are not finite .* Lower lr"):
        Trainer("fp32").fit(memorised.base, lambda step: batch, language_model_loss, Recipe(lr=1e39, steps=1))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_length_is_read_off_logits_that_are_not_numbers(memorised: Memorised, precision: str) -> None:
    subject = Subject(memorised.subject.folder)
    with torch.no_grad():
        subject.model.get_output_embeddings().weight.fill_(float("nan"))
    m = memorised.memories[0]
    with pytest.raises(UserError, match="logits are not finite"):
        Reader(subject, precision).read([Probe(m.id, (), m.row, 0, (m.opening,), ("opening",), 0)])


# ---- hashes


def test_hashes_of_shipped_models_stay_what_they_were() -> None:
    """They are in the key of every stage of every user."""
    assert {name: open_subject(name).hash for name in ("pocket", "pocket-small")} == {
        "pocket": "78357d305733e880",
        "pocket-small": "b4de4cb8aff4568d",
    }


def test_unsaved_weights_have_a_hash_of_their_own(llama: Path) -> None:
    subject, state = Subject(llama), Subject(llama).fresh().state_dict()
    same, other = subject.with_state(state), subject.with_state(state | {"model.norm.weight": state["model.norm.weight"] + 1})
    assert len({subject.hash, same.hash, other.hash}) == 3
    assert subject.with_state({k: v.clone() for k, v in state.items()}).hash == same.hash


def test_a_file_is_hashed_once_until_it_changes(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Subject(llama).hash
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", lambda *_: pytest.fail("read again"))
        assert Subject(llama).hash == before
    configured(llama, added=1)
    assert Subject(llama).hash != before


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


def as_gguf(gguf: Any, llama: Path, file: Path) -> None:
    """What llama.cpp's converter writes of a Llama, without a tokenizer; it keeps rotated queries and keys in another order."""
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
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
