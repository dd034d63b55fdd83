"""Methods that train a part of the model: sparse fine-tuning, neuron pruning; and the parts of transformers they look for."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.method import Adapted
from palimpsest.benchmark.models.blocks import blocks, down_projection, states_after
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.models.weights import linear_weights
from palimpsest.benchmark.training.batches import collate
from palimpsest.benchmark.training.loop import train
from palimpsest.benchmark.training.losses import nll_sum
from palimpsest.methods.neuron_pruning import Gated, NeuronPruning, stretched
from palimpsest.methods.sparse_finetuning import SparseFinetuning
from tests.methods.harness import DATA, OTHER, RETAIN, bind, small
from tests.methods.lookup import Lookup, lookup, mean_kl, mean_nll

SHAPE: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}


def gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=11, n_embd=8, n_layer=2, n_head=2, n_inner=12, n_positions=16, initializer_range=0.3)
    ).eval()


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, intermediate_size=12, num_key_value_heads=2, initializer_range=0.3)).eval()


def opt() -> Any:
    torch.manual_seed(0)
    return OPTForCausalLM(OPTConfig(**SHAPE, ffn_dim=12, word_embed_proj_dim=8, init_std=0.3)).eval()


MODELS = {
    "gpt-neox": lambda: small(0).float(),
    "gpt2": lambda: gpt2().to(device()),
    "llama": lambda: llama().to(device()),
    "opt": lambda: opt().to(device()),
}
DOWN = {
    "gpt-neox": "gpt_neox.layers.1.mlp.dense_4h_to_h", "gpt2": "transformer.h.1.mlp.c_proj", "llama": "model.layers.1.mlp.down_proj",
    "opt": "model.decoder.layers.1.fc2",
}  # fmt: skip


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}


# ---- the parts of a transformer


@pytest.mark.parametrize("name", MODELS)
def test_blocks_matrices_and_output_matrix_are_found_in_common_architectures(name: str) -> None:
    model = MODELS[name]()
    assert len(blocks(model)) == 2
    assert down_projection(model, 1) == DOWN[name]
    found = [name for name in linear_weights(model) if ".1." in name]
    expected = {"gpt-neox": 4, "gpt2": 4, "llama": 7, "opt": 6}[
        name
    ]  # attention (fused or q, k, v, output) and MLP (two, or three with a gate)
    assert len(found) == expected


@pytest.mark.parametrize("name", MODELS)
def test_states_after_a_block_are_the_models_own_hidden_states(name: str) -> None:
    model, ids = MODELS[name](), torch.tensor([[1, 2, 3, 0], [4, 0, 5, 6]])
    with torch.no_grad():
        expected = model(input_ids=ids, output_hidden_states=True).hidden_states[1]
        torch.testing.assert_close(states_after(model, ids, 0), expected)


def test_a_model_without_blocks_is_refused() -> None:
    strange: Any = SimpleNamespace(config=SimpleNamespace(num_hidden_layers=3), base_model=torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="no list of its 3 blocks"):
        blocks(strange)


# ---- sparse fine-tuning


def other_rows() -> list[Any]:
    return list(OTHER.values())


def test_sparse_finetuning_keeps_predictions_and_learns_the_other_continuation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SparseFinetuning, "start", lambda self, held, data: held)  # a table of logits has no matrices to choose from
    model, held = lookup(0), lookup(1)
    rows = [RETAIN[k % 3] for k in range(8)]
    expected = 0.5 * mean_nll(model, other_rows()) + 3 * mean_kl(held, model, rows)
    b = bind(SparseFinetuning(gamma=0.5, alpha=3.0), model, Lookup(held.table.weight.detach()))
    assert b.number == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_chosen_weights_are_those_of_the_largest_gradients_of_all_matrices(name: str) -> None:
    model = MODELS[name]()
    method = SparseFinetuning(share=0.05, batch=1)
    chosen = method.choose(model, method.prepare(None, DATA))  # type: ignore[arg-type]
    nll_sum(model, collate(other_rows(), slice(None), device())).backward()
    every = {n.removesuffix(".weight"): w.grad.abs().flatten() for n, w in linear_weights(model).items()}  # type: ignore[union-attr]
    flat = torch.cat(list(every.values()))
    assert sum(len(i) for i in chosen.values()) == round(0.05 * len(flat))
    least = min(float(every[n][i].min()) for n, i in chosen.items())
    for n, index in chosen.items():
        every[n][index] = 0
    assert least >= max(float(g.max()) for g in every.values()) - 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_all_other_weights_stay_exactly_as_they_were_under_weight_decay(name: str) -> None:
    """And the chosen ones decay as an ordinary matrix does."""
    before = weights(MODELS[name]())
    model, held = MODELS[name](), MODELS[name]()
    method = SparseFinetuning(share=0.05, lr=1e-3, weight_decay=100.0)
    b = bind(method, model, held)
    chosen = method.choose(MODELS[name](), method.prepare(None, DATA))  # type: ignore[arg-type]
    done = train(b.model, b.batch_at, b.loss, replace(b.recipe, steps=3, precision="fp32"))
    after = b.start.fold(done.state)
    assert after.keys() <= before.keys()
    shrunk = 0
    for k, w in after.items():
        moved = (w != before[k]).flatten().nonzero()[:, 0]
        assert set(moved.tolist()) <= set(chosen.get(k.removesuffix(".weight"), torch.tensor([])).tolist()), k
        shrunk += int((w.flatten()[moved].abs() < before[k].flatten()[moved].abs()).sum())
    total = sum(len(i) for i in chosen.values())
    assert shrunk > 0.9 * total  # lr * decay takes a tenth of a weight at each step, the loss at most 1e-3


def test_at_the_start_a_sparse_model_says_what_the_held_model_says() -> None:
    for name, make in MODELS.items():
        model, ids = make(), torch.tensor([[1, 2, 3, 0, 7]], device=device())
        before = model(input_ids=ids).logits
        b = bind(SparseFinetuning(share=0.3), model, make())
        torch.testing.assert_close(b.model(input_ids=ids).logits, before, msg=name)


def test_sparse_finetuning_says_what_is_wrong() -> None:
    with pytest.raises(UserError, match="'a' and 1 more have no `alternative`"):
        bind(SparseFinetuning(), small(0), small(1), replace(DATA, alternatives={}))
    with pytest.raises(UserError, match=r"share=0\.0: expected a share above 0"):
        SparseFinetuning(share=0.0)


# ---- neuron pruning


def test_gates_follow_the_hard_concrete_distribution() -> None:
    """The share of zeros among many draws is the closed form, and so is the value at a given noise."""
    gate = Gated(torch.nn.Linear(4, 1, bias=False), initial=0.9, beta=0.33)
    gate.inner.weight.data = torch.eye(4)
    gate.logit.data = torch.tensor([-3.0, -1.0, 0.0, 1.6])
    draw = torch.Generator().manual_seed(0)
    gate.noise = torch.rand(1, 200_000, 4, generator=draw)
    with torch.no_grad():
        z = gate(torch.ones(1, 200_000, 4))[0]
    for i, a in enumerate(gate.logit.tolist()):
        closed = 1 / (1 + math.exp(a - 0.33 * math.log(0.1 / 1.1)))
        assert float(gate.closed[i]) == pytest.approx(closed, rel=1e-5)
        assert float((z[:, i] == 0).float().mean()) == pytest.approx(closed, abs=0.005)
    assert float(z.min()) == 0.0
    assert float(z.max()) == 1.0
    gate.noise = torch.full((1, 1, 4), 0.3)
    s = [1 / (1 + math.exp(-(math.log(0.3 / 0.7) + a) / 0.33)) for a in gate.logit.tolist()]
    expected = [min(1.0, max(0.0, 1.2 * x - 0.1)) for x in s]
    assert gate(torch.ones(1, 1, 4))[0, 0].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_gate_begins_where_it_is_told_to() -> None:
    gate = Gated(torch.nn.Linear(5, 2), initial=0.9, beta=0.33)
    assert stretched(torch.sigmoid(gate.logit)).tolist() == pytest.approx([0.9] * 5)


def test_neuron_pruning_raises_the_nll_of_the_gated_model_and_pays_for_closed_gates() -> None:
    model = small(0)
    b = bind(NeuronPruning(gamma=0.5, penalty=7.0), model, small(1))
    groups = b.groups()
    got = float(b.value(groups).detach())
    gates = [m for m in b.model.modules() if isinstance(m, Gated)]
    assert len(gates) == 2
    assert {g.noise.shape for g in gates} == {(2, 1, 12)}
    with torch.no_grad():
        mean = float(nll_sum(b.model, groups["forget"])) / sum(r.scored for r in b.batch["forget"])  # under the same noise
        closed = float(torch.cat([torch.sigmoid(0.33 * math.log(0.1 / 1.1) - g.logit) for g in gates]).mean())
    assert got == pytest.approx(-0.5 * mean + 7.0 * closed, rel=1e-5)


def test_every_sequence_draws_gates_of_its_own_and_new_ones_at_every_step() -> None:
    b = bind(NeuronPruning(), small(0), small(1))
    gate = next(m for m in b.model.modules() if isinstance(m, Gated))
    seen = []
    for step in (0, 1, 0):
        b.terms(b.groups(step=step))
        seen.append(gate.noise.clone())
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0][0], seen[0][1])


@pytest.mark.parametrize("name", MODELS)
def test_pruned_neurons_are_cut_out_of_the_weights_and_all_else_stays(name: str) -> None:
    """The folded weights are those of a model whose gates are open or shut."""
    model, ids = MODELS[name](), torch.tensor([[1, 2, 3, 0, 7]], device=device())
    before = weights(model)
    b = bind(NeuronPruning(), model, MODELS[name]())
    shut = {0: [2, 5], 1: [0]}
    gates = [m for m in b.model.modules() if isinstance(m, Gated)]
    for layer, gate in enumerate(gates):
        gate.logit.data.fill_(30.0)
        gate.logit.data[shut[layer]] = -30.0
        gate.noise = torch.full((1, 1, 12), 0.5)
    with torch.no_grad():
        gated = b.model(input_ids=ids).logits
    after = b.start.fold(weights(b.model))
    assert after.keys() == before.keys()
    fresh = MODELS[name]()
    fresh.load_state_dict(after)
    with torch.no_grad():
        torch.testing.assert_close(fresh(input_ids=ids).logits, gated)
    changed = {k for k in after if not torch.equal(after[k], before[k])}
    assert changed == {f"{down_projection(fresh, layer)}.weight" for layer in shut}


def test_only_gates_are_trained() -> None:
    b = bind(NeuronPruning(), small(0), small(1))
    assert [n for n, p in b.model.named_parameters() if p.requires_grad] == [
        f"{DOWN['gpt-neox'].replace('1', str(i))}.logit" for i in (0, 1)
    ]


def test_a_partial_start_gives_fresh_models_with_parts_and_ordinary_subjects_back(tmp_path: Path) -> None:
    small(0).float().save_pretrained(tmp_path)
    start = Adapted(
        Subject(tmp_path),
        lambda model: model.add_module("extra", torch.nn.Linear(1, 1)),
        lambda s: {k: v for k, v in s.items() if "extra" not in k},
    )
    model = start.fresh()
    assert any(k.startswith("extra") for k in model.state_dict())
    name = "gpt_neox.final_layer_norm.bias"
    back = start.with_state(model.state_dict() | {name: torch.full((8,), 3.0)})
    assert type(back) is Subject
    assert back.fresh().state_dict()[name].tolist() == [3.0] * 8
