"""The losses of the methods: against their closed forms, against finite differences, and what must not enter them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.modeling_outputs import BaseModelOutput

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.method import Descent, Reference, UnlearningData, retain_term
from palimpsest.benchmark.models.logits import route
from palimpsest.benchmark.training import losses
from palimpsest.benchmark.training.batches import Group, Terms, collate, counts
from palimpsest.benchmark.training.loop import train
from palimpsest.benchmark.training.recipe import Recipe
from palimpsest.methods.grad_diff import GradDiff
from palimpsest.methods.gradient_ascent import GradientAscent
from palimpsest.methods.npo import NPO

ALL = [GradientAscent(), GradDiff(), GradDiff(retain_loss="kl"), NPO(), NPO(retain_loss="kl")]
VOCABULARY = 11


def label(given: object) -> str | None:
    return f"{type(given).__name__} {getattr(given, 'retain_loss', '')}".strip() if isinstance(given, Descent) else None


class _Table(nn.Module):
    """The body of `Lookup`."""

    def __init__(self, table: Tensor):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(table.clone(), freeze=False)
        self.forwards = 0

    def forward(self, input_ids: Tensor, use_cache: bool) -> BaseModelOutput:
        self.forwards += 1
        return BaseModelOutput(self.table(input_ids))  # type: ignore[arg-type]


class Lookup(nn.Module):
    """A model whose logits after a token are a row of a table: log-probabilities can be written down by hand."""

    def __init__(self, table: Tensor):
        super().__init__()
        self.base_model = _Table(table)
        self.head = nn.Linear(table.shape[1], table.shape[1], bias=False)
        self.head.weight.data = torch.eye(table.shape[1], dtype=table.dtype)
        route(self)  # which asks it some tokens
        self.base_model.forwards = 0

    @property
    def table(self) -> nn.Embedding:
        return self.base_model.table

    @property
    def forwards(self) -> int:
        return self.base_model.forwards

    def forward(self, input_ids: Tensor, use_cache: bool) -> Any:
        return SimpleNamespace(logits=self.head(self.base_model(input_ids=input_ids, use_cache=use_cache).last_hidden_state))

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def log_probability(self, row: Row) -> list[float]:
        """log p of every scored token, in plain arithmetic."""
        out = []
        for t in range(max(1, row.scored_from), len(row.ids)):
            logits = self.table.weight[row.ids[t - 1]].tolist()
            out.append(logits[row.ids[t]] - math.log(sum(math.exp(z) for z in logits)))
        return out


def lookup(seed: int, dtype: torch.dtype = torch.float32) -> Lookup:
    return Lookup(torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed)).to(dtype))


def small(seed: int = 0) -> GPTNeoXForCausalLM:
    """A GPT-NeoX with 11 tokens in float64."""
    torch.manual_seed(seed)
    shape = GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16, initializer_range=0.3,
    )  # fmt: skip
    return GPTNeoXForCausalLM(shape).double().eval()


FORGET = [Row((1, 2, 3, 4, 5, 6), 2, "a"), Row((7, 8, 9), name="b")]
RETAIN = [Row((2, 4, 6, 8), name="c"), Row((9, 7, 5, 3, 1), 3, "d"), Row((10, 1, 10), name="e")]


def reference(model: Any, rows: list[Row] = FORGET) -> Reference:
    return Reference(SimpleNamespace(model=model), rows)  # type: ignore[arg-type]


def value(terms: Terms, forget: list[Row], retain: list[Row]) -> Tensor:
    """The loss as the trainer makes it of the terms."""
    n = counts({"forget": forget, "retain": retain})
    return torch.stack([t.total * t.weight / n[t.group, t.unit] for t in terms.values()]).sum()


def loss_of(method: Descent, model: Any, held: Any, forget: list[Row] = FORGET, retain: list[Row] = RETAIN) -> Tensor:
    groups = [collate(rows, slice(None), "cpu") for rows in (forget, retain)]
    return value(method.loss(model, *groups, reference(held, forget)), forget, retain).detach()


def mean_nll(model: Lookup, rows: list[Row]) -> float:
    each = [x for r in rows for x in model.log_probability(r)]
    return -sum(each) / len(each)


def mean_kl(held: Lookup, model: Lookup, rows: list[Row]) -> float:
    """KL(p_held || p_model) at the positions that predict a scored token."""
    each = []
    for r in rows:
        for t in range(max(1, r.scored_from), len(r.ids)):
            p = torch.softmax(held.table.weight[r.ids[t - 1]].double(), -1).tolist()
            q = torch.softmax(model.table.weight[r.ids[t - 1]].double(), -1).tolist()
            each.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return sum(each) / len(each)


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
    group = collate(FORGET, slice(None), "cpu")
    NPO(beta=1e-7).loss(model, group, collate(RETAIN, slice(None), "cpu"), reference(lookup(1)))["forget"].total.backward()
    npo, model.table.weight.grad = model.table.weight.grad, None
    (-losses.nll_sum(model, group)).backward()
    torch.testing.assert_close(npo, model.table.weight.grad, rtol=1e-5, atol=1e-7)


def test_a_retain_loss_of_another_name_is_refused() -> None:
    group = collate(RETAIN, slice(None), "cpu")
    with pytest.raises(UserError, match="retain_loss='mse': expected nll or kl"):
        retain_term("mse", lookup(0), group, reference(lookup(0)), 1.0)


# ---- pieces


def test_fused_and_separate_losses_agree() -> None:
    model, group = small().float(), collate(FORGET, slice(None), "cpu")
    each = losses.sequence_nll(model, group)
    alone = [losses.nll_sum(model, collate([r], slice(None), "cpu")) for r in FORGET]
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
    model, group = small(), collate(FORGET, slice(None), "cpu")
    logits, labels, row = losses.scored_logits(model, group)
    whole = model(input_ids=group.ids).logits
    assert labels.tolist() == [3, 4, 5, 6, 8, 9]
    assert row.tolist() == [0, 0, 0, 0, 1, 1]
    torch.testing.assert_close(logits, torch.cat([whole[0, 1:5], whole[1, 0:2]]))


def test_the_table_of_the_reference_is_the_held_models_own_log_probability() -> None:
    rows = [Row(tuple((7 * i + j) % VOCABULARY for j in range(4 + i % 5)), 1 + i % 2, f"row{i}") for i in range(37)]
    model = lookup(3)
    ask = [rows[i] for i in (36, 0, 15, 16, 17)]
    found = reference(model, rows).log_probability(collate(ask, slice(None), "cpu"))
    assert found.tolist() == pytest.approx([sum(model.log_probability(r)) for r in ask], rel=1e-5)
    assert not found.requires_grad


def test_the_reference_runs_once_over_its_rows_however_often_it_is_asked() -> None:
    held = lookup(0)
    table, group = reference(held), collate(FORGET, slice(None), "cpu")
    for _ in range(3):
        table.log_probability(group)
    assert held.forwards == 1


def test_forget_rows_that_share_a_name_are_refused_by_the_reference() -> None:
    rows = [Row((1, 2, 3)), Row((4, 5, 6))]
    with pytest.raises(UserError, match="names that differ"):
        reference(lookup(0), rows).log_probability(collate(rows, slice(None), "cpu"))


# ---- gradients


@pytest.mark.parametrize("method", ALL, ids=label)
def test_the_gradient_is_that_of_finite_differences(method: Descent) -> None:
    model, held = small(0), small(1)
    groups = [collate(rows, slice(None), "cpu") for rows in (FORGET, RETAIN)]
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
    plain = [collate(rows, slice(None), "cpu") for rows in (FORGET, RETAIN)]
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


# ---- what a step costs


def forwards(model: nn.Module) -> Callable[[], int]:
    """Counts the forward passes of a transformer from now on."""
    seen: list[int] = []
    model.gpt_neox.register_forward_hook(lambda *_: seen.append(1))  # type: ignore[union-attr,operator]
    return lambda: len(seen)


@pytest.mark.parametrize(
    ("method", "trained", "held"),
    [
        (GradientAscent(), 1, 0),
        (GradDiff(), 2, 0),
        (GradDiff(retain_loss="kl"), 2, 1),
        (NPO(), 2, 0),
        (NPO(retain_loss="kl"), 2, 1),
    ],
    ids=label,
)
def test_a_step_takes_as_many_forward_passes_as_its_terms_need(method: Descent, trained: int, held: int) -> None:
    model, frozen = small(0).float(), small(1).float()
    table = reference(frozen)
    groups = {"forget": FORGET, "retain": RETAIN} if method.uses_retain else {"forget": FORGET}
    table.log_probability(collate(FORGET, slice(None), "cpu"))  # the table's own pass, before counting
    mine, theirs = forwards(model), forwards(frozen)
    recipe = Recipe(steps=4, precision="fp32")
    train(model, lambda step: groups, lambda m, g: method.loss(m, g["forget"], g.get("retain", g["forget"]), table), recipe)
    assert (mine(), theirs()) == (4 * trained, 4 * held)


# ---- which rows a step gets


def test_every_epoch_meets_every_forget_row_once_in_another_order() -> None:
    rows = [Row((1, 2, i), name=str(i)) for i in range(10)]
    data = UnlearningData(rows, [], lambda k: Row((3, 4, k), name=f"text{k}"), seed=5)
    method = GradientAscent(batch=4, epochs=2)
    batches = [method.batch_at(data)(step) for step in range(method.steps(data))]
    names = [[r.name for r in b["forget"]] for b in batches]
    assert [len(n) for n in names] == [4, 4, 2] * 2
    epochs = [[n for batch in part for n in batch] for part in (names[:3], names[3:])]
    assert [sorted(e, key=int) for e in epochs] == [[r.name for r in rows]] * 2
    assert epochs[0] != epochs[1]
    assert all(set(b) == {"forget"} for b in batches)


def test_retain_rows_are_shown_memories_and_fresh_ordinary_text_in_equal_parts() -> None:
    data = UnlearningData(
        [Row((1, 2, i), name=str(i)) for i in range(4)], [Row((5, 6, i), name=f"shown{i}") for i in range(4)],
        lambda k: Row((3, 4, k), name=f"text{k}"), seed=5,
    )  # fmt: skip
    method = NPO(batch=4, epochs=4)
    names = [[r.name for r in method.batch_at(data)(step)["retain"]] for step in range(4)]
    assert [n for batch in names for n in batch[2:]] == [f"text{k}" for k in range(8)]
    shown = [n for batch in names for n in batch[:2]]
    assert sorted(shown[:4]) == sorted(shown[4:]) == [f"shown{i}" for i in range(4)]
    alone = replace(data, shown=[])
    assert [r.name for r in method.batch_at(alone)(1)["retain"]] == [f"text{k}" for k in range(4, 8)]
