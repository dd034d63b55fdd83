"""What holds for the loss of every method in the folder: gradient, masking, filling rows, ranks, and what a step costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.training.batches import IGNORED
from palimpsest.benchmark.training.loop import Extras, train
from tests.methods.harness import DATA, DESCENTS, FORGET, OTHER, RETAIN, Bound, bind, made, small
from tests.methods.lookup import lookup

DETACHED = ("wga", "satimp", "ce_u")  # parts of these losses are constants for the gradient: see test_weighted_losses.py
BLOCKS = ("rmu", "sparse_finetuning", "neuron_pruning")  # need a transformer, not only logits
VARIANTS = [
    *(pytest.param(name, {}, id=name) for name in DESCENTS),
    *(pytest.param(n, {"retain_loss": "kl"}, id=f"{n}-kl") for n in ("grad_diff", "npo", "simnpo", "dpo", "retain_only")),
]

# Forward passes per step of (the trained model, the held model): one for each group that the formula reads.
COST = {
    "gradient_ascent": (1, 0), "grad_diff": (2, 0), "npo": (2, 0), "simnpo": (2, 0), "wga": (2, 0), "satimp": (2, 0), "undial": (1, 1),
    "ce_u": (1, 0), "dpo": (3, 0), "rmu": (2, 1), "pdu": (2, 0), "task_vector": (1, 0), "whp": (1, 0), "sparse_finetuning": (2, 1),
    "neuron_pruning": (1, 0), "random_labels": (1, 0), "retain_only": (1, 0),
}  # fmt: skip


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """The few casts to float32 in the losses do nothing."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)


def bound(name: str, given: dict[str, Any]) -> Bound:
    return bind(made(name, **given), small(0), small(1))


def trained(b: Bound) -> dict[str, nn.Parameter]:
    return {n: p for n, p in b.model.named_parameters() if p.requires_grad}


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize(("name", "given"), [v for v in VARIANTS if v.id not in DETACHED])
def test_the_gradient_is_that_of_finite_differences(name: str, given: dict[str, Any]) -> None:
    b = bound(name, given)
    b.value().backward()
    draw = torch.Generator().manual_seed(0)
    assert trained(b)
    for n, p in trained(b).items():
        direction = torch.randn(p.shape, generator=draw, dtype=torch.float64)
        sides = []
        for step in (1e-5, -1e-5):
            p.data.add_(step * direction)
            sides.append(float(b.value().detach()))
            p.data.sub_(step * direction)
        slope = (sides[0] - sides[1]) / 2e-5
        gradient = 0.0 if p.grad is None else float((p.grad * direction).sum())
        assert gradient == pytest.approx(slope, rel=1e-5, abs=1e-7), n


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize(("name", "given"), VARIANTS)
def test_padding_changes_neither_loss_nor_gradient(name: str, given: dict[str, Any]) -> None:
    b = bound(name, given)

    def padded(n: int) -> list[Tensor]:
        b.model.zero_grad()
        groups = {
            k: replace(g, ids=nn.functional.pad(g.ids, (0, n), value=5), labels=nn.functional.pad(g.labels, (0, n), value=IGNORED))
            for k, g in b.groups().items()
        }
        loss = b.value(groups)
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in trained(b).values() if p.grad is not None)]

    for a, c in zip(padded(0), padded(4), strict=True):
        torch.testing.assert_close(a, c, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("name", "given"), [v for v in VARIANTS if v.id not in BLOCKS])
def test_tokens_of_a_prompt_are_never_scored(name: str, given: dict[str, Any]) -> None:
    """Under a model that sees one token back, only the last token of a prompt can matter."""
    other = replace(
        DATA, forget=[replace(FORGET[0], ids=(10, *FORGET[0].ids[1:])), FORGET[1]],
        retain=lambda k: replace(RETAIN[1], ids=(1, 10, 5, 3, 1)) if k % 3 == 1 else RETAIN[k % 3],
        alternatives=OTHER | {"a": replace(OTHER["a"], ids=(10, *OTHER["a"].ids[1:]))},
    )  # fmt: skip
    found = [bind(made(name, **given), lookup(0), lookup(1), data).value().detach() for data in (DATA, other)]
    assert torch.equal(*found)


@pytest.mark.parametrize(("name", "given"), VARIANTS)
def test_rows_that_only_fill_a_micro_batch_add_nothing_to_value_or_gradient(name: str, given: dict[str, Any]) -> None:
    b = bound(name, given)
    terms = b.terms(b.groups(slice(50, None)))
    assert [float(t.total.detach()) for t in terms.values()] == [0.0] * len(terms)
    torch.stack([t.total.double() for t in terms.values()]).sum().backward()
    assert all(p.grad is None or float(p.grad.abs().max()) == 0.0 for p in trained(b).values())


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize(("name", "given"), VARIANTS)
def test_sums_over_ranks_are_the_sum_over_the_batch(name: str, given: dict[str, Any]) -> None:
    """Three ranks of which some get nothing, with padding of their own, at a step other than the first."""
    b = bound(name, given)
    whole = {k: t.total.detach() for k, t in b.terms(b.groups(step=3)).items()}
    parts = [b.terms(b.groups(slice(rank, None, 3), step=3)) for rank in range(3)]
    for k, total in whole.items():
        torch.testing.assert_close(torch.stack([p[k].total.detach() for p in parts]).sum(), total, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", DESCENTS)
def test_a_step_takes_as_many_passes_as_its_formula_needs(name: str) -> None:
    model, held = small(0).float(), small(1).float()
    b = bind(made(name), model, held)
    b.terms()  # a table of the held model's log-probabilities is filled by its first use
    seen = {"forward": 0, "held": 0}

    def count(what: str) -> Any:
        def hook(*_: Any) -> None:
            seen[what] += 1

        return hook

    b.model.gpt_neox.register_forward_hook(count("forward"))
    held.gpt_neox.register_forward_hook(count("held"))
    train(b.model, b.batch_at, b.loss, replace(b.recipe, steps=3, precision="fp32"), Extras(b.state))
    assert (seen["forward"], seen["held"]) == tuple(3 * n for n in COST[name])


@pytest.mark.parametrize("name", DESCENTS)
def test_every_group_holds_ordinary_rows_that_have_something_to_score(name: str) -> None:
    b = bind(made(name), small(0), small(1))
    for rows in b.batch.values():
        assert all(isinstance(r, Row) and r.scored > 0 for r in rows)
