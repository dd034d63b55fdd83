"""The backward pass of attention that training on a CPU uses: right gradients, and only where it fits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from palimpsest.benchmark.training import attention
from palimpsest.benchmark.training.attention import LONGEST, QuickAttention
from palimpsest.benchmark.training.batches import Group
from palimpsest.benchmark.training.loop import LossModule
from palimpsest.benchmark.training.losses import language_model_loss

OURS = "_AttentionBackward"


def heads(dtype: torch.dtype = torch.bfloat16, length: int = 37, shared: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return tuple(torch.randn(2, n, length, 8).to(dtype).requires_grad_() for n in (3 * shared, 3, 3))  # type: ignore[return-value]


def gradients(tensors: tuple[Tensor, Tensor, Tensor], quick: bool, **more: Any) -> list[Tensor]:
    if quick:
        with QuickAttention():
            out = F.scaled_dot_product_attention(*tensors, is_causal=True, **more)
    else:
        out = F.scaled_dot_product_attention(*tensors, is_causal=True, **more)
    out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype))
    return [out.detach().float(), *(t.grad.float() for t in tensors)]


@pytest.mark.parametrize(("scale", "shared"), [(None, 1), (0.9, 1), (None, 2), (0.9, 3)])
def test_output_and_gradients_are_those_of_fp32_up_to_bf16(scale: float | None, shared: int) -> None:
    low = heads(shared=shared)
    more = {"scale": scale, "enable_gqa": shared > 1}
    exact = gradients(tuple(t.detach().float().requires_grad_() for t in low), False, **more)  # type: ignore[arg-type]
    for ours, theirs in zip(gradients(low, True, **more), exact, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_rows_do_not_touch_each_other() -> None:
    whole = gradients(heads(), True)
    alone = gradients(tuple(t.detach()[:1].requires_grad_() for t in heads()), True)  # type: ignore[arg-type]
    first = gradients(heads(), True)
    assert all(torch.equal(a, b) for a, b in zip(whole, first, strict=True))
    assert torch.equal(whole[0][:1], alone[0])


@pytest.mark.parametrize("case", ["fp32", "mask", "not causal", "no gradient", "long"])
def test_whatever_does_not_fit_is_left_to_the_library(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention._Attention, "apply", lambda *_: pytest.fail("taken over"))
    q, k, v = heads(torch.float32 if case == "fp32" else torch.bfloat16, LONGEST + 1 if case == "long" else 37)
    more: dict[str, Any] = {"is_causal": case not in ("mask", "not causal")}
    if case == "mask":
        more["attn_mask"] = torch.ones(37, 37).bool().tril()
    with QuickAttention(), torch.set_grad_enabled(case != "no gradient"):
        assert F.scaled_dot_product_attention(q, k, v, **more).shape == q.shape


def test_it_may_be_called_as_the_library_allows() -> None:
    q, k, v = heads()
    with QuickAttention():
        called = [
            F.scaled_dot_product_attention(q, k, v, None, 0.0, True),
            F.scaled_dot_product_attention(query=q, key=k, value=v, is_causal=True),
            F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], is_causal=True, enable_gqa=True),
        ]
    assert all(out.grad_fn is not None and out.grad_fn.name() == OURS for out in called)


SIZE: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
MODELS = {
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZE)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZE, num_key_value_heads=1)),  # as Llama 3 and SmolLM2: heads share keys and values
}


@pytest.mark.parametrize("model", MODELS)
def test_training_in_bf16_takes_it_and_training_in_fp32_does_not(model: str) -> None:
    module = LossModule(MODELS[model](), language_model_loss)
    ids = torch.arange(24).view(2, 12)
    batch = {"text": Group(ids, ids.clone(), ("a", "b"), torch.ones(2).bool(), torch.arange(2))}

    def taken(low: bool) -> int:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            value, _ = module(batch, {("text", "tokens"): 1 / 22})
        seen, todo = set(), [value.grad_fn]
        while todo:
            node = todo.pop()
            if node is not None and node not in seen:
                seen.add(node)
                todo += [n for n, _ in node.next_functions]
        return sum(node.name() == OURS for node in seen)

    assert (taken(True), taken(False)) == (2, 0)
