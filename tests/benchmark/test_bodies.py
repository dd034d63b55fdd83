"""The body of a model: the states after every layer as the library gives them, and the faster body for GPT-NeoX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import Probe
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.forward import Forward
from palimpsest.benchmark.reading.neox import NeoX, fits
from palimpsest.benchmark.reading.reader import Reader
from tests.benchmark.windows import counted_forwards, every_window, fp32
from tests.conftest import Memorised

BF16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # elsewhere bf16 is emulated, slowly, and the library's body alone computes in it

# ---- layers

LAYERS = 3
SHAPES = {
    "gpt_neox": GPTNeoXConfig(hidden_size=32, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=64, vocab_size=4096),
    "llama": LlamaConfig(hidden_size=32, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=64, vocab_size=4096),
    "gpt2": GPT2Config(n_embd=32, n_layer=LAYERS, n_head=2, vocab_size=4096),
}
LAST_NORM = {"gpt_neox": "final_layer_norm", "llama": "norm", "gpt2": "ln_f"}


@pytest.fixture(params=SHAPES)
def architecture(request: pytest.FixtureRequest, tokenizer: Any, tmp_path: Path) -> tuple[str, Subject]:
    """A small model of random weights, large enough that its states differ from layer to layer."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SHAPES[request.param])
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return request.param, Subject(tmp_path)


def test_a_layer_is_read_through_the_last_norm_and_the_head(architecture: tuple[str, Subject], memorised: Memorised) -> None:
    name, subject = architecture
    row = memorised.memories[0].row[:40]
    model = subject.model
    kept: list[torch.Tensor] = [model.get_input_embeddings()(torch.tensor([row], device=device()))]
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == LAYERS)
    hooks = [b.register_forward_hook(lambda m, i, out: kept.append(out[0] if isinstance(out, tuple) else out)) for b in blocks]
    with torch.no_grad():
        own = model(torch.tensor([row], device=device())).logits
        for hook in hooks:
            hook.remove()
        states = Forward(subject).states([row], (None, 0, 1, 2, LAYERS))
        for layer in range(0 if name != "gpt2" else 1, LAYERS):  # GPT-2 adds positions to its embeddings
            expected = model.lm_head(getattr(model.base_model, LAST_NORM[name])(kept[layer]))
            torch.testing.assert_close(model.lm_head(states[layer]), expected, atol=1e-4, rtol=1e-4)
            assert (expected - own).abs().max() > 0.1
        torch.testing.assert_close(model.lm_head(states[LAYERS]), own, atol=1e-4, rtol=1e-4)


def test_the_last_layer_is_the_models_own_output(memorised: Memorised, blurred: Subject) -> None:
    probes = every_window(memorised.memories[0])[::10]
    own, first, last = ([replace(p, layer=layer) for p in probes] for layer in (None, 1, 2))
    read = fp32(blurred).read(own)
    assert fp32(blurred).read(last) == read
    assert Reader(blurred, "bf16").read(last) == read
    assert fp32(blurred).read(first) != read
    assert Reader(blurred, "bf16").read([*first, *own, *last]) == [*fp32(blurred).read(first), *read, *read]


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_that_is_not_there_is_the_users_error(layer: int, memorised: Memorised) -> None:
    with pytest.raises(UserError, match="layers 0"):
        fp32(memorised.subject).read([Probe("m", (5,), (6, 7), 0, layer=layer)])


# ---- the faster body


@pytest.mark.parametrize("bias", [True, False])
def test_the_faster_body_computes_what_the_library_does(bias: bool, memorised: Memorised) -> None:
    torch.manual_seed(1)
    shape = GPTNeoXConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, vocab_size=4096, attention_bias=bias,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    )  # fmt: skip
    body = AutoModelForCausalLM.from_config(shape).eval().base_model
    with torch.no_grad():
        for p in body.parameters():
            p.add_(0.1 * torch.randn_like(p))
        ids = torch.tensor([memorised.memories[0].row[:50], memorised.memories[1].row[:50]])
        exact, low = body(ids).last_hidden_state, body.to(torch.bfloat16)(ids).last_hidden_state.float()
        body.float()
        assert fits(body, torch.float32)
        torch.testing.assert_close(NeoX(body, torch.float32)(ids), body(ids).last_hidden_state, atol=2e-4, rtol=1e-4)
        if not BF16:
            return
        rough = NeoX(body)
        error = (rough(ids) - body(ids).last_hidden_state).square().mean().sqrt()
        assert 0 < error < (low - exact).square().mean().sqrt(), "less is rounded than in the library's body in bf16"
        torch.testing.assert_close(rough(ids[:1, :33]), rough(ids)[:1, :33], atol=0.1, rtol=0.1)


def test_a_body_with_a_hook_or_of_another_kind_is_left_to_the_library(memorised: Memorised, architecture: tuple[str, Subject]) -> None:
    body = memorised.subject.model.base_model
    body(torch.tensor([[1, 2]], device=device()), output_hidden_states=True)  # leaves hooks of the library's own behind
    for dtype, there in ((torch.float32, device().type == "cpu"), (torch.bfloat16, device().type != "cpu" or BF16)):
        assert fits(body, dtype) == there
        with counted_forwards(memorised.subject):
            assert not fits(body, dtype)
        assert fits(architecture[1].model.base_model, dtype) == (there and architecture[0] == "gpt_neox")
