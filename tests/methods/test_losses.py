"""The losses of the methods: against their closed forms, against finite differences, and what must not enter them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.method import Descent, Reference, retain_term
from palimpsest.benchmark.training import losses
from palimpsest.benchmark.training.batches import Group, Terms, collate
from palimpsest.methods.grad_diff import GradDiff
from palimpsest.methods.gradient_ascent import GradientAscent
from palimpsest.methods.npo import NPO
from tests.methods.lookup import ALL, FORGET, RETAIN, Lookup, label, lookup, loss_of, mean_kl, mean_nll, reference, small, value

# ---- closed forms


def test_gradient_ascent_is_minus_the_mean_nll() -> None:
    model = lookup(0)
    assert float(loss_of(GradientAscent(), model, model)) == pytest.approx(-mean_nll(model, FORGET), rel=1e-5)


def test_gradient_difference_adds_the_retain_nll_with_its_weights() -> None:
    model = lookup(0)
    expected = -0.5 * mean_nll(model, FORGET) + 3 * mean_nll(model, RETAIN)
    assert float(loss_of(GradDiff(gamma=0.5, alpha=3.0), model, model)) == pytest.approx(expected, rel=1e-5)


def test_the_kl_retain_term_is_from_the_held_model_to_the_trained_one() -> None:
    model, held = lookup(0), Lookup(3 * lookup(1).table.weight.detach())
    expected = -mean_nll(model, FORGET) + 2 * mean_kl(held, model, RETAIN)
    assert mean_kl(held, model, RETAIN) != pytest.approx(mean_kl(model, held, RETAIN), rel=1e-2)
    assert float(loss_of(GradDiff(alpha=2.0, retain_loss="kl"), model, held)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("beta", [0.05, 0.1, 2.5])
def test_npo_compares_sums_over_the_sequence_with_the_held_model(beta: float) -> None:
    model, held = lookup(0), lookup(1)
    each = []
    for row in FORGET:
        ratio = sum(model.log_probability(row)) - sum(held.log_probability(row))
        each.append(2 / beta * math.log1p(math.exp(beta * ratio)))  # -(2/beta) log sigmoid(-beta ratio)
    expected = 0.25 * sum(each) / 2 + 4 * mean_nll(model, RETAIN)
    assert float(loss_of(NPO(beta=beta, gamma=0.25, alpha=4.0), model, held)) == pytest.approx(expected, rel=1e-5)


def test_npo_of_the_held_model_itself_is_two_log_two_over_beta() -> None:
    model = lookup(0)
    loss = NPO(beta=0.1, retain_loss="kl")
    assert float(loss_of(loss, model, model)) == pytest.approx(2 / 0.1 * math.log(2), rel=1e-6)


def test_npo_nears_gradient_ascent_on_sequence_sums_as_beta_falls() -> None:
    """The limit that its paper proves: the gradient is that of the log-ratio, sigma(0) = 1/2 of it times 2."""
    model = lookup(0, torch.float64)
    group = collate(FORGET, slice(None), device())
    NPO(beta=1e-7).loss(model, group, collate(RETAIN, slice(None), device()), reference(lookup(1)))["forget"].total.backward()
    npo, model.table.weight.grad = model.table.weight.grad, None
    (-losses.nll_sum(model, group)).backward()
    torch.testing.assert_close(npo, model.table.weight.grad, rtol=1e-5, atol=1e-7)


def test_a_retain_loss_of_another_name_is_refused() -> None:
    group = collate(RETAIN, slice(None), device())
    with pytest.raises(UserError, match="retain_loss='mse': expected nll or kl"):
        retain_term("mse", lookup(0), group, reference(lookup(0)), 1.0)


# ---- gradients


@pytest.mark.parametrize("method", ALL, ids=label)
def test_the_gradient_is_that_of_finite_differences(method: Descent) -> None:
    model, held = small(0), small(1)
    groups = [collate(rows, slice(None), device()) for rows in (FORGET, RETAIN)]
    table = reference(held)

    def loss() -> Tensor:
        return value(exact(method, model, groups, table), FORGET, RETAIN)

    loss().backward()
    draw = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        direction = torch.randn(p.shape, generator=draw, dtype=torch.float64)
        with torch.no_grad():
            sides = []
            for step in (1e-5, -1e-5):
                p.add_(step * direction)
                sides.append(float(loss()))
                p.sub_(step * direction)
        slope = (sides[0] - sides[1]) / 2e-5
        assert p.grad is not None, name
        assert float((p.grad * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-7), name


def exact(method: Descent, model: nn.Module, groups: list[Group], table: Reference) -> Terms:
    """The method's terms in float64: the few casts to float32 in the losses do nothing here."""
    before = Tensor.float
    Tensor.float = Tensor.double  # type: ignore[method-assign,assignment]
    try:
        return method.loss(model, *groups, table)
    finally:
        Tensor.float = before  # type: ignore[method-assign]


# ---- what must not enter


@pytest.mark.parametrize("method", ALL, ids=label)
def test_padding_does_not_change_a_loss_or_a_gradient(method: Descent) -> None:
    model, held = small(0), small(1)
    plain = [collate(rows, slice(None), device()) for rows in (FORGET, RETAIN)]
    longer = [
        replace(g, ids=nn.functional.pad(g.ids, (0, 4), value=5), labels=nn.functional.pad(g.labels, (0, 4), value=-100)) for g in plain
    ]
    found = []
    for groups in (plain, longer):
        model.zero_grad()
        loss = value(exact(method, model, groups, reference(held)), FORGET, RETAIN)
        loss.backward()
        found.append((loss.detach(), *(p.grad.clone() for p in model.parameters())))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("method", ALL, ids=label)
def test_tokens_of_a_prompt_are_never_scored(method: Descent) -> None:
    """Under a model that sees one token back, only the last token of a prompt can matter."""
    model, held = lookup(0), lookup(1)
    other = [replace(FORGET[0], ids=(10, 2, 3, 4, 5, 6)), FORGET[1]], [RETAIN[0], replace(RETAIN[1], ids=(1, 10, 5, 3, 1)), RETAIN[2]]
    assert torch.equal(loss_of(method, model, held), loss_of(method, model, held, *other))


@pytest.mark.parametrize("method", ALL, ids=label)
def test_rows_that_only_fill_a_micro_batch_add_nothing_to_value_or_gradient(method: Descent) -> None:
    model, held = small(0), small(1)
    empty = [collate(rows, slice(5, None), "cpu") for rows in (FORGET, RETAIN)]
    terms = method.loss(model, *empty, reference(held))
    assert [float(t.total.detach()) for t in terms.values()] == [0.0] * len(terms)
    torch.stack([t.total.double() for t in terms.values()]).sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) == 0.0 for p in model.parameters() if p.requires_grad)
