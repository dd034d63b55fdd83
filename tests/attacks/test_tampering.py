"""Tampering attacks: each change is what it says it is, leaves the model under attack alone, and comes out the same twice."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Olmo2Config, Olmo2ForCausalLM

from palimpsest.attacks.ablate_direction import AblateDirection, ablated, mean_states, strength, unit, writers
from palimpsest.attacks.benign_finetuning import BenignFinetuning
from palimpsest.attacks.interpolate import Interpolate
from palimpsest.attacks.prune import Prune
from palimpsest.attacks.quantise import Quantise
from palimpsest.attacks.relearn import Relearn
from palimpsest.attacks.relearn_lora import RelearnLora
from palimpsest.benchmark.attack import Changed, Finding, Tampering, Workshop
from palimpsest.benchmark.attack_tools.relearning import batches, portion
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.models.quantisation import round_to_nearest
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.training.trainer import Trainer
from tests.conftest import Memorised

QUICK: list[Tampering] = [Quantise(), Prune(), Interpolate(), AblateDirection(ordinary=8)]
LEARNING: list[Tampering] = [
    BenignFinetuning(lr=1e-3, steps=2, batch=2),
    Relearn(shares=(0.25, 0.5), lr=1e-3, steps=2, batch=2, points=(1, 2)),
    RelearnLora(shares=(0.5,), lr=1e-2, steps=2, batch=2, points=(1, 2)),
]


def name_of(attack: Tampering) -> str:
    return type(attack).__name__


def ordinary(k: int) -> Row:
    """Rows of random ids, the same for the same k."""
    draw = torch.Generator().manual_seed(k)
    return Row(tuple(torch.randint(1, 4096, (40 + k % 3,), generator=draw).tolist()))


@dataclass
class Watching(Trainer):
    """A trainer that keeps the rows of every step."""

    seen: list[list[Row]] = field(default_factory=list)

    def fit(self, start: Subject, batch_at: Any, *args: Any, **given: Any) -> Subject:
        def watched(step: int) -> Any:
            batch = batch_at(step)
            self.seen.append(list(batch["text"]))
            return batch

        return super().fit(start, watched, *args, **given)


def workshop(memorised: Memorised, trainer: Trainer | None = None) -> Workshop:
    """As the battery gives it, with the memorised model as the held one."""
    return Workshop(
        memorised.base, 3, retain=ordinary, trainer=lambda purpose: trainer or Trainer("fp32", seed=1),
        held=memorised.subject, twin=memorised.base, precision="fp32",
    )  # fmt: skip


def changes(attack: Tampering, subject: Subject, rows: Sequence[Row], tools: Workshop) -> dict[str, dict[str, Tensor]]:
    """Dose -> full weights of each changed model that is fully asked."""
    found = [c for c in attack.tamper(subject, rows, tools) if isinstance(c, Changed) and not c.only_opening]
    return {c.dose: weights(c.subject) for c in found}


def weights(subject: Subject) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in subject.fresh().state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def unlearned(memorised: Memorised) -> Subject:
    """The memorised model with some noise, so that it differs from the held one."""
    torch.manual_seed(0)
    return memorised.subject.with_state({k: v + 0.01 * torch.randn_like(v) for k, v in weights(memorised.subject).items()})


# ---- all of them


@pytest.mark.parametrize("attack", [*QUICK, *LEARNING], ids=name_of)
def test_an_attack_leaves_its_subject_alone_and_gives_the_same_models_twice(attack: Tampering, memorised: Memorised, unlearned: Subject):
    before, loaded = weights(unlearned), {k: v.clone() for k, v in unlearned.model.state_dict().items()}
    held = weights(memorised.subject)
    first = changes(attack, unlearned, memorised.forget[:2], workshop(memorised))
    assert same(weights(unlearned), before)
    assert same(unlearned.model.state_dict(), loaded)
    assert same(weights(memorised.subject), held)
    assert first
    assert not any(same(state, before) for state in first.values())
    again = changes(attack, unlearned, memorised.forget[:2], workshop(memorised))
    assert all(same(first[dose], again[dose]) for dose in first)
    assert first.keys() == again.keys()


def test_doses_are_named_by_what_was_done(memorised: Memorised, unlearned: Subject):
    def doses(attack: Tampering) -> list[tuple[str, int]]:
        found = attack.tamper(unlearned, memorised.forget[:2], workshop(memorised))
        return [(c.dose, c.step) for c in found if isinstance(c, Changed)]

    assert [doses(a) for a in QUICK] == [
        [("int8", -1), ("int4", -1), ("int4-rtn", -1)],
        [("10%", -1), ("20%", -1), ("30%", -1)],
        [("25%", -1), ("50%", -1), ("75%", -1)],
        [("layer1", -1), ("layer2", -1)],
    ]
    points = [("", 1), ("", 2)]
    assert [doses(a) for a in LEARNING] == [
        [("2 steps", -1)],
        [("25%", -1), *points, ("50%", -1)],
        [*points, ("50%", -1)],
    ]


# ---- quantisation, pruning, interpolation


def body(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if ".layers." in k and v.ndim == 2}


def test_quantised_weights_have_few_levels_and_the_rest_stays(memorised: Memorised, unlearned: Subject):
    before = weights(unlearned)
    for dose, state in changes(Quantise(), unlearned, [], workshop(memorised)).items():
        levels = {"int8": 256, "int4": 16, "int4-rtn": 16}[dose]
        assert all(torch.equal(v, before[k]) for k, v in state.items() if k not in body(before))
        for name, after in body(state).items():
            groups = after.view(len(after), -1, after.shape[1] if dose == "int8" else 32)
            old = before[name].view_as(groups)
            assert max(len(g.unique()) for g in groups.flatten(0, 1)) <= levels
            size = (2 * old.abs().amax(-1, keepdim=True)) / (levels - 1)
            assert bool(((groups - old).abs() <= size * 0.5001).all())


def test_an_unknown_variant_of_quantise_is_the_users_error(memorised: Memorised, unlearned: Subject):
    with pytest.raises(UserError, match="int3"):
        list(Quantise(("int3",)).tamper(unlearned, [], workshop(memorised)))


def test_pruning_sets_the_smallest_weights_of_every_matrix_to_0(memorised: Memorised, unlearned: Subject):
    before, found = weights(unlearned), changes(Prune(), unlearned, [], workshop(memorised))
    for dose, state in found.items():
        assert all(torch.equal(v, before[k]) for k, v in state.items() if k not in body(before))
        for name, after in body(state).items():
            gone = after == 0
            assert int(gone.sum()) == round(float(dose[:-1]) / 100 * after.numel())
            assert float(before[name][gone].abs().max()) <= float(before[name][~gone].abs().min())
            assert torch.equal(after[~gone], before[name][~gone])


def test_interpolation_goes_straight_to_the_held_model(memorised: Memorised, unlearned: Subject):
    start, end = weights(unlearned), weights(memorised.subject)
    for dose, state in changes(Interpolate(), unlearned, [], workshop(memorised)).items():
        share = float(dose[:-1]) / 100
        for name, v in state.items():
            torch.testing.assert_close(v, (1 - share) * start[name] + share * end[name], atol=1e-6, rtol=1e-5)


def test_interpolation_needs_a_held_model_of_the_same_architecture(memorised: Memorised, unlearned: Subject, tmp_path: Path):
    with pytest.raises(UserError, match="held model"):
        list(Interpolate().tamper(unlearned, [], Workshop(memorised.base)))
    other = llama(tmp_path)
    assert list(Interpolate().tamper(other, [], workshop(memorised))) == []


# ---- ablation


def shapes(width: int) -> dict[str, Any]:
    return {"vocab_size": 4096, "hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 256}


def llama(folder: Path) -> Subject:
    torch.manual_seed(5)
    LlamaForCausalLM(LlamaConfig(**shapes(32), intermediate_size=64, num_key_value_heads=1)).save_pretrained(folder)
    return Subject(folder)


def gpt2(folder: Path) -> Subject:
    torch.manual_seed(5)
    GPT2LMHeadModel(GPT2Config(vocab_size=4096, n_embd=32, n_layer=2, n_head=2, n_positions=256)).save_pretrained(folder)
    return Subject(folder)


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


def test_a_scale_is_of_inputs_of_one_output_whichever_way_round_weights_are_kept(tmp_path: Path):
    subject = gpt2(tmp_path)
    (rounded,) = Quantise(variants=("int4-rtn",), group=32).tamper(subject, (), Workshop(subject))
    name = "transformer.h.0.mlp.c_fc.weight"  # [inputs, outputs]
    kept, own = rounded.subject.fresh().get_parameter(name), subject.model.get_parameter(name)
    torch.testing.assert_close(kept.T.detach(), round_to_nearest(own.T.detach(), 4, 32))
    assert max(len(column.unique()) for column in kept.T[:8, :32]) <= 16


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


# ---- training


def test_benign_finetuning_sees_ordinary_rows_only_each_once(memorised: Memorised, unlearned: Subject):
    trainer = Watching("fp32")
    list(BenignFinetuning(steps=3, batch=2).tamper(unlearned, memorised.forget, workshop(memorised, trainer)))
    steps = trainer.seen[-3:]
    assert [row for step in steps for row in step] == [ordinary(k) for k in range(6)]


@pytest.mark.parametrize("size", [1, 5, 16, 33])
def test_smaller_doses_are_part_of_larger_ones(memorised: Memorised, size: int):
    fold = [Row((1, 2, 3), name=f"m{i:02}") for i in range(size)]
    tools = workshop(memorised)
    doses = [portion(fold, share, tools) for share in (0.1, 0.2, 0.5)]
    assert [len(d) for d in doses] == [max(1, round(2 * share * size)) for share in (0.1, 0.2, 0.5)]
    for small, large in itertools.pairwise(doses):
        assert large[: len(small)] == small
    assert sorted(r.name for r in doses[-1]) == [r.name for r in fold]
    assert portion(fold[::-1], 0.2, tools) == doses[1]


def test_every_epoch_holds_each_row_once_in_another_order(memorised: Memorised):
    fold = [Row((1, 2, 3), name=f"m{i}") for i in range(7)]
    at = batches(fold, 3, workshop(memorised))
    epochs = [[r.name for step in range(3 * e, 3 * e + 3) for r in at(step)["text"]] for e in range(3)]
    assert all(sorted(e) == [r.name for r in fold] for e in epochs)
    assert epochs[0] != epochs[1]
    assert [len(at(s)["text"]) for s in range(4)] == [3, 3, 1, 3]


@pytest.mark.parametrize("attack", LEARNING[1:], ids=name_of)
def test_relearning_never_sees_the_other_half(attack: Tampering, memorised: Memorised, unlearned: Subject):
    trainer = Watching("fp32")
    fold = memorised.forget[:2]
    list(attack.tamper(unlearned, fold, workshop(memorised, trainer)))
    assert {r.name for step in trainer.seen for r in step} == {r.name for r in fold}


def test_a_point_of_a_trajectory_is_a_shorter_relearning(memorised: Memorised, unlearned: Subject):
    long = Relearn(shares=(0.25, 0.5), lr=1e-3, steps=3, batch=2, points=(1, 3, 9))
    found = list(long.tamper(unlearned, memorised.forget[:2], workshop(memorised)))
    points = {c.step: weights(c.subject) for c in found if c.only_opening}
    short = Relearn(shares=(0.5,), lr=1e-3, steps=1, batch=2, points=())
    assert list(points) == [1, 3]
    assert same(points[1], changes(short, unlearned, memorised.forget[:2], workshop(memorised))["50%"])
    assert same(points[3], weights(found[-1].subject))


def test_without_anything_to_relearn_there_is_no_change(memorised: Memorised, unlearned: Subject):
    for attack in (*LEARNING[1:], AblateDirection()):
        assert list(attack.tamper(unlearned, [], workshop(memorised))) == []


def test_relearning_brings_down_the_loss_of_what_is_relearned(memorised: Memorised, unlearned: Subject):
    trainer = Watching("fp32")
    list(Relearn(shares=(0.5,), lr=3e-3, steps=6, batch=4).tamper(unlearned, memorised.forget, workshop(memorised, trainer)))
    assert trainer.steps[-1]["nll"] < 0.7 * trainer.steps[0]["nll"]


def test_lora_relearning_changes_the_matrices_of_the_body_by_a_low_rank(memorised: Memorised, unlearned: Subject):
    before = weights(unlearned)
    attack = RelearnLora(lr=1e-2, steps=4, batch=2, rank=2)
    state = changes(attack, unlearned, memorised.forget[:2], workshop(memorised))["50%"]
    assert {k for k in before if not torch.equal(before[k], state[k])} == set(body(before))
    for name in body(before):
        assert int(torch.linalg.matrix_rank((state[name] - before[name]).double(), rtol=1e-3)) in (1, 2)
