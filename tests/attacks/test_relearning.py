"""Training again, on forgotten texts or on ordinary ones: which rows are seen, in which doses, and what changes."""

from __future__ import annotations

import itertools

import pytest
import torch

from palimpsest.attacks.ablate_direction import AblateDirection
from palimpsest.attacks.benign_finetuning import BenignFinetuning
from palimpsest.attacks.relearn import Relearn
from palimpsest.attacks.relearn_lora import RelearnLora
from palimpsest.benchmark.attack import Tampering
from palimpsest.benchmark.attack_tools.relearning import batches, portion
from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.models.subject import Subject
from tests.attacks.tampering import LEARNING, Watching, body, changes, name_of, ordinary, same, weights, workshop
from tests.conftest import Memorised


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
