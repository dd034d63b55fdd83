"""SimNPO, WGA, SatImp, UNDIAL and CE-U against their closed forms, and what their gradients must leave alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.method import Descent
from palimpsest.benchmark.training.batches import collate
from palimpsest.methods.ce_u import CEU
from palimpsest.methods.satimp import SatImp
from palimpsest.methods.simnpo import SimNPO
from palimpsest.methods.undial import UNDIAL
from palimpsest.methods.wga import WGA
from tests.methods.lookup import FORGET, RETAIN, VOCABULARY, Lookup, lookup, loss_of, mean_nll, reference, value

NEW = [SimNPO(), WGA(), SatImp(), UNDIAL(), CEU()]


def per_token(model: Lookup) -> list[float]:
    return [p for row in FORGET for p in model.log_probability(row)]


def predictions(model: Lookup) -> list[tuple[list[float], int]]:
    """(logits, true token) at every scored position of the forget rows."""
    return [(model.table.weight[r.ids[t - 1]].tolist(), r.ids[t]) for r in FORGET for t in range(max(1, r.scored_from), len(r.ids))]


def softmax(z: list[float]) -> list[float]:
    top = max(z)
    each = [math.exp(x - top) for x in z]
    return [x / sum(each) for x in each]


def simnpo(model: Lookup, held: Lookup) -> float:
    lengths = [-sum(model.log_probability(r)) / r.scored for r in FORGET]
    each = [-2 / 4.5 * math.log(1 / (1 + math.exp(-4.5 * n))) for n in lengths]
    return 0.125 * sum(each) / len(each) + mean_nll(model, RETAIN)


def weighted(weight: Callable[[float], float]) -> Callable[[Lookup, Lookup], float]:
    def closed(model: Lookup, held: Lookup) -> float:
        each = [weight(math.exp(p)) * p for p in per_token(model)]  # p is log p, so this is -w NLL
        return sum(each) / len(each) + mean_nll(model, RETAIN)

    return closed


def undial(model: Lookup, held: Lookup) -> float:
    each = []
    for (z_ref, y), (z, _) in zip(predictions(held), predictions(model), strict=True):
        target = softmax([x - 10 * (i == y) for i, x in enumerate(z_ref)])
        each.append(-sum(t * math.log(q) for t, q in zip(target, softmax(z), strict=True)))
    return sum(each) / len(each)


def ce_u(model: Lookup, held: Lookup) -> float:
    each = []
    for z, y in predictions(model):
        target = softmax([-1e9 if i == y else x for i, x in enumerate(z)])
        each.append(-sum(t * math.log(q) for t, q in zip(target, softmax(z), strict=True)))
    return sum(each) / len(each)


CLOSED = [simnpo, weighted(lambda p: p), weighted(lambda p: p**5 * (1 - p)), undial, ce_u]


@pytest.mark.parametrize(("method", "closed"), list(zip(NEW, CLOSED, strict=True)), ids=lambda x: type(x).__name__)
def test_the_loss_is_its_closed_form(method: Descent, closed: Callable[[Lookup, Lookup], float]) -> None:
    model, held = lookup(1), lookup(2)
    assert loss_of(method, model, held).item() == pytest.approx(closed(model, held), rel=1e-5)


@pytest.mark.parametrize(("method", "weight"), [(WGA(), lambda p: p), (SatImp(), lambda p: p**5 * (1 - p))], ids=["WGA", "SatImp"])
def test_the_gradient_does_not_run_through_the_weights(method: Descent, weight: Callable[[torch.Tensor], torch.Tensor]) -> None:
    model = lookup(1, torch.float64)
    groups = [collate(rows, slice(None), "cpu") for rows in (FORGET, RETAIN)]
    terms = method.loss(model, *groups, reference(model))
    (got,) = torch.autograd.grad(value({"forget": terms["forget"]}, FORGET, RETAIN), model.table.weight)
    pairs = [(r.ids[t - 1], r.ids[t]) for r in FORGET for t in range(max(1, r.scored_from), len(r.ids))]
    expected = torch.zeros(VOCABULARY, VOCABULARY, dtype=torch.float64)
    for before, true in pairs:  # d(-w NLL)/dz = w (1_y - p)
        p = model.table.weight[before].detach().softmax(-1)
        expected[before] += weight(p[true]) * (torch.nn.functional.one_hot(torch.tensor(true), VOCABULARY) - p) / len(pairs)
    # float32 inside the cross entropy bounds the agreement
    assert torch.allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("method", NEW, ids=lambda m: type(m).__name__)
def test_context_before_the_scored_part_changes_nothing(method: Descent) -> None:
    model, held = lookup(1), lookup(2)
    longer = [Row((9, 9, *FORGET[0].ids), FORGET[0].scored_from + 2, "a"), FORGET[1]]
    assert loss_of(method, model, held, longer).item() == pytest.approx(loss_of(method, model, held).item(), rel=1e-5)
