"""Tampering attacks: each change is what it says it is, leaves the model under attack alone, and comes out the same twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from palimpsest.attacks.interpolate import Interpolate
from palimpsest.attacks.prune import Prune
from palimpsest.attacks.quantise import Quantise
from palimpsest.benchmark.attack import Changed, Tampering, Workshop
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.models.quantisation import round_to_nearest
from palimpsest.benchmark.models.subject import Subject
from tests.attacks.tampering import LEARNING, QUICK, body, changes, gpt2, llama, name_of, same, weights, workshop
from tests.conftest import Memorised

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


def test_a_scale_is_of_inputs_of_one_output_whichever_way_round_weights_are_kept(tmp_path: Path):
    subject = gpt2(tmp_path)
    (rounded,) = Quantise(variants=("int4-rtn",), group=32).tamper(subject, (), Workshop(subject))
    name = "transformer.h.0.mlp.c_fc.weight"  # [inputs, outputs]
    kept, own = rounded.subject.fresh().get_parameter(name), subject.model.get_parameter(name)
    torch.testing.assert_close(kept.T.detach(), round_to_nearest(own.T.detach(), 4, 32))
    assert max(len(column.unique()) for column in kept.T[:8, :32]) <= 16
