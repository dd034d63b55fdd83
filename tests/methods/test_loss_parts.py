"""What losses are made of: the fused loss and its gradient, the logits of scored tokens, the table of the reference."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.training import losses
from palimpsest.benchmark.training.batches import collate
from tests.methods.lookup import FORGET, VOCABULARY, lookup, reference, small


def test_fused_and_separate_losses_agree() -> None:
    model, group = small().float(), collate(FORGET, slice(None), device())
    each = losses.sequence_nll(model, group)
    alone = [losses.nll_sum(model, collate([r], slice(None), device())) for r in FORGET]
    torch.testing.assert_close(each, torch.stack(alone), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(losses.nll_sum(model, group), each.sum(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("held", [1, 4 * 11, 2**21])
def test_the_fused_loss_and_its_gradient_are_those_of_pytorchs_own(bias: bool, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.LOGITS, "cpu", held)
    draw = torch.Generator().manual_seed(0)
    states, weight, offset = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((6, 5), (11, 5), (11,)))
    labels = torch.tensor([3, 0, 10, 3, 7, 7])
    found = []
    for own in (True, False):
        leaves = [t.clone().requires_grad_() for t in ((states, weight, offset) if bias else (states, weight))]
        s, w, b = (*leaves, None)[:3]
        value = losses._HeadNLL.apply(s, w, b, labels) if own else F.cross_entropy(F.linear(s, w, b), labels, reduction="sum")
        (-3 * value).backward()
        found.append([value.detach(), *(t.grad for t in leaves)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("words", "width", "kind", "positions"), [
    (4096, 256, "cpu", 512), (49152, 576, "cpu", 288), (49152, 576, "cuda", 1365), (2**28, 1, "cuda", 1),
])  # fmt: skip
def test_chunks_of_a_large_vocabulary_are_half_a_width_long_on_a_cpu(words: int, width: int, kind: str, positions: int) -> None:
    assert losses._positions(torch.empty(words, width, device="meta"), kind) == positions


def test_under_autocast_the_fused_loss_keeps_what_a_sure_model_still_has_to_learn() -> None:
    """In bf16, 1 - p is 0 from p = .998 on: the gradient of a memorised token would vanish."""
    states, weight = torch.eye(2, 4).requires_grad_(), torch.tensor([[8.0, 0, 0, 0], [0, 1.0, 0, 0]]).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = losses._HeadNLL.apply(states, weight, None, torch.tensor([0, 1]))
    value.backward()
    sure, unsure = 1 / (1 + math.exp(8)), 1 / (1 + math.e)
    assert value.item() == pytest.approx(math.log1p(math.exp(-8)) + math.log1p(math.exp(-1)), rel=1e-5)
    expected = torch.tensor([[-sure, unsure], [sure, -unsure]])
    torch.testing.assert_close(weight.grad[:, :2], expected, rtol=1e-2, atol=0.0)


def test_frozen_weights_get_no_gradient_from_the_fused_loss() -> None:
    states, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)
    losses._HeadNLL.apply(states, weight, None, torch.tensor([0, 1, 2])).backward()
    assert states.grad is not None
    assert weight.grad is None
    with torch.no_grad():
        assert not losses._HeadNLL.apply(states, weight, None, torch.tensor([0, 1, 2])).requires_grad


def test_scored_logits_are_those_before_each_scored_token() -> None:
    model, group = small(), collate(FORGET, slice(None), device())
    logits, labels, row = losses.scored_logits(model, group)
    whole = model(input_ids=group.ids).logits
    assert labels.tolist() == [3, 4, 5, 6, 8, 9]
    assert row.tolist() == [0, 0, 0, 0, 1, 1]
    torch.testing.assert_close(logits, torch.cat([whole[0, 1:5], whole[1, 0:2]]))


def test_the_table_of_the_reference_is_the_held_models_own_log_probability() -> None:
    rows = [Row(tuple((7 * i + j) % VOCABULARY for j in range(4 + i % 5)), 1 + i % 2, f"row{i}") for i in range(37)]
    model = lookup(3)
    ask = [rows[i] for i in (36, 0, 15, 16, 17)]
    found = reference(model, rows).log_probability(collate(ask, slice(None), device()))
    assert found.tolist() == pytest.approx([sum(model.log_probability(r)) for r in ask], rel=1e-5)
    assert not found.requires_grad


def test_the_reference_runs_once_over_its_rows_however_often_it_is_asked() -> None:
    held = lookup(0)
    table, group = reference(held), collate(FORGET, slice(None), device())
    for _ in range(3):
        table.log_probability(group)
    assert held.forwards == 1


def test_forget_rows_that_share_a_name_are_refused_by_the_reference() -> None:
    rows = [Row((1, 2, 3)), Row((4, 5, 6))]
    with pytest.raises(UserError, match="names that differ"):
        reference(lookup(0), rows).log_probability(collate(rows, slice(None), device()))
