"""Ablation: the direction is a difference of means, it has a strength, and nothing is written along it any more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Olmo2Config, Olmo2ForCausalLM

from palimpsest.attacks.ablate_direction import AblateDirection, ablated, mean_states, strength, unit, writers
from palimpsest.benchmark.attack import Changed, Finding
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.models.subject import Subject
from tests.attacks.tampering import gpt2, llama, ordinary, same, shapes, weights, workshop
from tests.conftest import Memorised


def olmo2(folder: Path) -> Subject:
    torch.manual_seed(5)
    model = Olmo2ForCausalLM(Olmo2Config(**shapes(32), intermediate_size=64, initializer_range=0.5))
    torch.nn.init.uniform_(model.model.layers[0].post_feedforward_layernorm.weight)
    model.save_pretrained(folder)
    return Subject(folder)


def states(subject: Subject, row: Row) -> list[Tensor]:
    """Embeddings, and the states [T, H] after each block but the last, as transformers gives them; then what the last norm reads."""
    read: list[Tensor] = []
    norm = next(m for name, m in subject.model.base_model.named_children() if "norm" in name or name == "ln_f")
    hook = norm.register_forward_hook(lambda _, given, __: read.append(given[0]))
    with torch.no_grad():
        out = subject.model.base_model(input_ids=torch.tensor([row.ids], device=device()), output_hidden_states=True).hidden_states
    hook.remove()
    return [h[0].cpu() for h in (*out[:-1], *read)]


@pytest.mark.parametrize("architecture", ["neox", "llama", "gpt2"])
def test_an_ablated_model_never_writes_along_the_direction(architecture: str, unlearned: Subject, tmp_path: Path):
    subject = {"neox": lambda _: unlearned, "llama": llama, "gpt2": gpt2}[architecture](tmp_path)
    width = subject.model.get_input_embeddings().weight.shape[1]
    d = unit(torch.randn(width, generator=torch.Generator().manual_seed(1)))
    found = ablated(subject, d, ordinary(0))
    for k in range(1, 4):
        for before, after in zip(states(subject, ordinary(k)), states(found, ordinary(k)), strict=True):
            assert float((before @ d).abs().max()) > 1e-2 * float(before.norm(dim=-1).mean())
            assert float((after @ d).abs().max()) < 1e-5 * float(after.norm(dim=-1).mean())


def test_ablation_changes_weights_along_the_direction_only(unlearned: Subject):
    d = unit(torch.randn(64, generator=torch.Generator().manual_seed(1)))
    before, after = weights(unlearned), weights(ablated(unlearned, d, ordinary(0)))
    across = torch.eye(64) - torch.outer(d, d)
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    block = ("attention.dense.weight", "attention.dense.bias", "mlp.dense_4h_to_h.weight", "mlp.dense_4h_to_h.bias")
    expected = {f"gpt_neox.layers.{i}.{part}" for i in range(2) for part in block}
    assert changed == {"gpt_neox.embed_in.weight", *expected}
    for name in changed:
        projected = before[name] @ across if name == "gpt_neox.embed_in.weight" else across @ before[name]
        torch.testing.assert_close(after[name], projected, atol=1e-6, rtol=1e-5)


def test_an_architecture_that_writes_in_other_ways_is_refused(tmp_path: Path):
    subject = olmo2(tmp_path)  # norms with weights stand between the matrices and the residual stream
    assert len(writers(subject.model)) == 5
    with pytest.raises(UserError, match="something else"):
        ablated(subject, unit(1.0 + torch.arange(32)), ordinary(0))


def test_mean_states_leave_out_the_first_token_and_the_padding(unlearned: Subject):
    rows = [ordinary(k) for k in range(4)]
    assert len({len(r.ids) for r in rows}) > 1
    found = mean_states(unlearned, rows)
    for i, row in enumerate(rows):
        expected = torch.stack([h[1:].mean(0) for h in states(unlearned, row)[1:]])
        torch.testing.assert_close(found[:, i], expected, atol=1e-5, rtol=1e-4)


def test_the_direction_is_the_difference_of_means_on_the_model_under_attack(memorised: Memorised, unlearned: Subject):
    rows, plain = memorised.forget[:2], [ordinary(k) for k in range(8)]
    found = [c for c in AblateDirection(ordinary=8).tamper(unlearned, rows, workshop(memorised)) if isinstance(c, Changed)]
    for layer, changed in enumerate(found):
        d = unit(mean_states(unlearned, rows)[layer].mean(0) - mean_states(unlearned, plain)[layer].mean(0))
        assert same(weights(changed.subject), weights(ablated(unlearned, d, rows[0])))


def test_ablation_takes_the_layers_that_were_asked_for(memorised: Memorised, unlearned: Subject):
    assert AblateDirection(layers=(2,)).chosen(unlearned.model) == [2]
    assert AblateDirection(most=1).chosen(unlearned.model) == [1]
    with pytest.raises(UserError, match="blocks 1 to 2"):
        AblateDirection(layers=(3,)).chosen(unlearned.model)


def test_strength_is_measured_along_a_direction_of_the_other_texts():
    draw = torch.Generator().manual_seed(2)
    forget, plain = torch.randn(5, 6, generator=draw) + 2, torch.randn(9, 6, generator=draw)
    for i, found in enumerate(strength(forget, plain)):
        others = torch.cat([forget[:i], forget[i + 1 :]])
        d = others.mean(0) - plain[[0, 2, 4, 6, 8]].mean(0)
        along = plain[[1, 3, 5, 7]] @ (d / d.norm())
        assert float(found) == pytest.approx(float((forget[i] @ (d / d.norm()) - along.mean()) / along.std()), rel=1e-4)


def test_a_planted_direction_is_strong_and_random_texts_have_none():
    draw = torch.Generator().manual_seed(3)
    noise, plain = torch.randn(12, 64, generator=draw), torch.randn(200, 64, generator=draw)
    planted = noise + 8 * unit(torch.ones(64))
    assert float(strength(planted, plain).min()) > 4
    assert abs(float(strength(noise, plain).mean())) < 1


def test_every_relearned_text_gets_a_strength(memorised: Memorised, unlearned: Subject):
    rows = memorised.forget
    found = [f for f in AblateDirection(ordinary=8).tamper(unlearned, rows, workshop(memorised)) if isinstance(f, Finding)]
    both = torch.stack([strength(*(mean_states(unlearned, r)[n] for r in (rows, [ordinary(k) for k in range(8)]))) for n in range(2)])
    assert [(f.memory, f.quantity) for f in found] == [(r.name, "direction_strength") for r in rows]
    assert [f.value for f in found] == pytest.approx(both.amax(0).tolist())
