"""Patching: how deep a model differs from the held one, against what its states say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from palimpsest.attacks.patching import Patching, drops
from palimpsest.benchmark.attack import Workshop
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.models.subject import Subject
from tests.attacks.brute_force import window
from tests.attacks.searching import loss_of, searching_tools, with_first_id
from tests.conftest import Memorised


@pytest.fixture(scope="module")
def tools(memorised: Memorised) -> Workshop:
    return searching_tools(memorised)


@pytest.fixture(scope="module")
def llama(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """An untrained model of another family, three layers, its head tied to its embeddings."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(1)
    shape = LlamaConfig(
        vocab_size=4096, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, intermediate_size=64,
        max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Subject(folder)


def test_depth_is_zero_for_the_held_model_and_one_for_the_twin(memorised: Memorised, tools: Workshop) -> None:
    memories = memorised.memories[:4]
    assert [f.value for f in Patching().search(memorised.subject, memories, tools)] == [0.0] * 4
    assert [f.value for f in Patching().search(memorised.base, memories, tools)] == [1.0] * 4
    weights = memorised.base.model.state_dict()
    between = memorised.base.with_state({k: 0.5 * (v + weights[k]) for k, v in memorised.subject.model.state_dict().items()})
    assert all(0.0 < f.value < 1.0 for f in Patching().search(between, memories, tools))


def test_depth_weighs_layers_by_what_the_twin_lacks(memorised: Memorised, tools: Workshop, monkeypatch: Any) -> None:
    d = {id(tools.twin): [[0.04, 1.0, 3.0], [0.05, 0.0, -1.0]], id(memorised.subject): [[9.0, 0.5, 4.0], [1.0, 1.0, 1.0]]}
    monkeypatch.setattr("palimpsest.attacks.patching.drops", lambda held, source, memories: np.array(d[id(source)]))
    found = list(Patching().search(memorised.subject, memorised.memories[:2], tools))
    assert [(f.memory, f.quantity, f.value) for f in found] == [(memorised.memories[0].id, "depth", pytest.approx((0.5 + 3.0) / 4.0))]


@pytest.mark.parametrize("family", ["gpt-neox", "llama", "first id"])
def test_patching_the_last_layer_makes_the_held_model_say_what_the_source_says(family: str, memorised: Memorised, llama: Subject) -> None:
    """With one block changed, states before it are the same, and after the last block the source's own answer follows."""
    held = {"gpt-neox": memorised.subject, "llama": llama, "first id": with_first_id(memorised.subject, 7)}[family]
    weights = held.model.state_dict()
    last = held.model.config.num_hidden_layers - 1
    draws = torch.Generator().manual_seed(0)
    changed = {k: v + 0.1 * torch.randn(v.shape, generator=draws) for k, v in weights.items() if f".{last}." in k}
    source = held.with_state(weights | changed)
    source.__dict__["bos"] = held.bos
    memories = [memorised.memories[0], window(memorised.memories[1], 20, 9)]  # of different lengths
    found = drops(held, source, memories)
    assert found[:, :last] == pytest.approx(0, abs=1e-5)
    for m, drop in zip(memories, found[:, last], strict=True):
        mine, theirs = (-loss_of(s, m.row[: m.opening], m.target) for s in (held, source))
        assert drop == pytest.approx(mine - theirs, abs=1e-3)
        assert abs(drop) > 1e-3


def test_patching_without_a_twin_says_what_it_needs(memorised: Memorised, tools: Workshop) -> None:
    with pytest.raises(UserError, match="retrained twin"):
        list(Patching().search(memorised.subject, memorised.memories[:1], replace(tools, twin=None)))
