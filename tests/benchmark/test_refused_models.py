"""Models that are refused: an error names what is wrong and the cure; weights that are not finite are never used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import Probe
from palimpsest.benchmark.models.subject import Subject, open_subject
from palimpsest.benchmark.reading.reader import Reader
from palimpsest.benchmark.training.losses import language_model_loss
from palimpsest.benchmark.training.recipe import Recipe
from palimpsest.benchmark.training.trainer import Trainer
from tests.benchmark.model_folders import configured, saved, weighted
from tests.conftest import Memorised

pytestmark = pytest.mark.usefixtures("quiet_library")


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
