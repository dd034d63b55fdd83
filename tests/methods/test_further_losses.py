"""DPO, PDU, RMU, the controls and the task vector against their closed forms, and what they ask of the data."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.seeds import rng
from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.method import UnlearningData, alternatives
from palimpsest.benchmark.training.batches import IGNORED, collate
from palimpsest.benchmark.training.loop import Extras, train
from palimpsest.methods import random_labels
from palimpsest.methods.dpo import DPO, REFUSALS
from palimpsest.methods.pdu import PDU, Dual
from palimpsest.methods.random_labels import RandomLabels
from palimpsest.methods.retain_only import RetainOnly
from palimpsest.methods.rmu import RMU
from palimpsest.methods.task_vector import TaskVector
from tests.conftest import Memorised
from tests.methods.harness import DATA, FORGET, OTHER, RETAIN, VOCABULARY, bind, small
from tests.methods.lookup import Lookup, lookup, mean_kl, mean_nll

ROWS = [RETAIN[k % 3] for k in range(8)]  # the retain rows of the first step: a batch of 8


# ---- dpo


def log_ratio(model: Lookup, held: Lookup, row: Row) -> float:
    return sum(model.log_probability(row)) - sum(held.log_probability(row))


@pytest.mark.parametrize("beta", [0.1, 2.5])
def test_dpo_prefers_the_other_answer_over_the_text_given_the_opening(beta: float) -> None:
    model, held = lookup(0), lookup(1)
    each = []
    for row in FORGET:
        margin = log_ratio(model, held, OTHER[row.name]) - log_ratio(model, held, replace(row, scored_from=DATA.openings[row.name]))
        each.append(2 / beta * math.log1p(math.exp(-beta * margin)))
    expected = 0.5 * sum(each) / 2 + 3 * mean_nll(model, ROWS)
    assert bind(DPO(beta=beta, gamma=0.5, alpha=3.0), model, held).number == pytest.approx(expected, rel=1e-5)


def test_dpo_of_the_held_model_itself_is_two_log_two_over_beta() -> None:
    model = lookup(0)
    b = bind(DPO(beta=0.1), model, model)
    assert float(b.terms()["forget"].total.detach()) / 2 == pytest.approx(2 / 0.1 * math.log(2), rel=1e-6)


def test_dpo_asks_the_held_model_once_about_texts_and_answers() -> None:
    held = lookup(1)
    b = bind(DPO(), lookup(0), held)
    for _ in range(3):
        b.terms()
    assert held.forwards == 1


def test_dpo_puts_the_two_sides_of_a_pair_into_the_same_place_of_their_groups() -> None:
    rows = [Row((1, 2, 3, i), name=f"m{i}") for i in range(10)]
    other = {r.name: Row((1, 2, i, i), 2, r.name) for i, r in enumerate(rows)}
    data = UnlearningData(rows, [], lambda k: RETAIN[0], openings={r.name: 2 for r in rows}, alternatives=other)
    b = bind(DPO(batch=4, epochs=2), lookup(0), lookup(1), data)
    for step in range(6):
        batch = b.batch_at(step)
        assert [f"{r.name}, answer" for r in batch["forget"]] == [r.name for r in batch["answer"]]
        assert [r.ids[2] for r in batch["answer"]] == [r.ids[3] for r in batch["forget"]]
        assert {r.scored_from for rows_ in (batch["forget"], batch["answer"]) for r in rows_} == {2}


def test_dpo_with_idk_answers_follows_the_opening_with_a_refusal(memorised: Memorised) -> None:
    given = memorised.forget
    data = UnlearningData(given, [], lambda k: given[0], seed=3, openings={m.id: m.opening for m in memorised.memories})
    method = DPO(answer="idk")
    ready = method.prepare(memorised.subject, data)
    said = set()
    for m in memorised.memories[: len(given)]:
        row = ready.alternatives[m.id]
        assert (row.ids[: m.opening], row.scored_from) == (m.row[: m.opening], m.opening)
        said.add(memorised.subject.tokenizer.decode(row.ids[m.opening :]).strip())
    assert said <= set(REFUSALS)
    assert len(said) > 1
    assert ready.alternatives == method.prepare(memorised.subject, data).alternatives
    assert ready.alternatives != method.prepare(memorised.subject, replace(data, seed=4)).alternatives


def test_an_alternative_is_the_opening_with_its_other_continuation_as_long_as_the_row(memorised: Memorised) -> None:
    found = alternatives(memorised.memories, memorised.base)
    assert set(found) == {m.id for m in memorised.memories}
    for m in memorised.memories:
        row = found[m.id]
        assert row.ids[: m.opening] == m.row[: m.opening]
        assert row.scored_from == m.opening
        assert m.opening + 64 < len(row.ids) <= len(m.row)
        text = memorised.subject.tokenizer.decode(row.ids[m.opening :])
        assert (" " + m.memory.alternative).startswith(text)


def test_dpo_says_what_is_missing() -> None:
    with pytest.raises(UserError, match=r"'a' has no `alternative`.*answer=idk"):
        bind(DPO(), lookup(0), lookup(1), replace(DATA, alternatives={}))
    with pytest.raises(UserError, match="opening of 'a' ends"):
        bind(DPO(), lookup(0), lookup(1), replace(DATA, openings={}))
    with pytest.raises(UserError, match="expected alternative or idk"):
        DPO(answer="no")


# ---- pdu


def margins(model: Lookup) -> list[float]:
    logits = [model.table.weight[r.ids[t - 1]].tolist() for r in FORGET for t in range(max(1, r.scored_from), len(r.ids))]
    return [(max(z) - sum(z) / len(z)) ** 2 for z in logits]


def test_pdu_flattens_the_logits_and_weighs_the_retain_loss_by_its_multiplier() -> None:
    model = lookup(0)
    b = bind(PDU(gamma=0.5, dual=3.0), model, lookup(1))
    flat = margins(model)
    assert b.number == pytest.approx(0.5 * sum(flat) / len(flat) + 3 * mean_nll(model, ROWS), rel=1e-5)
    b.state.value = 0.25
    assert b.number == pytest.approx(0.5 * sum(flat) / len(flat) + 0.25 * mean_nll(model, ROWS), rel=1e-5)


def test_pdu_measures_epsilon_on_the_held_model() -> None:
    held = lookup(1)
    b = bind(PDU(slack=0.2), lookup(0), held)
    rows = [RETAIN[k % 3] for k in range(64)]
    assert b.state.epsilon == pytest.approx(1.2 * mean_nll(held, rows), rel=1e-5)


def test_the_multiplier_rises_while_the_constraint_is_broken_and_never_falls_below_zero() -> None:
    dual = Dual(1.0, rate=2.0, epsilon=0.5)
    for loss, expected in ((0.75, 1.5), (0.25, 1.0), (-3.0, 0.0), (0.5, 0.0), (1.0, 1.0)):
        dual.after_step({"retain_loss": loss})
        assert dual.value == pytest.approx(expected)
    other = Dual(9.0, rate=2.0, epsilon=0.5)
    other.load_state_dict(dual.state_dict())
    assert other.value == dual.value


def test_pdu_moves_its_multiplier_by_the_global_retain_loss_of_each_step() -> None:
    model = small(0).float()
    b = bind(PDU(eta=0.5, lr=1e-2), model, small(1).float())
    start, epsilon = b.state.value, b.state.epsilon
    done = train(b.model, b.batch_at, b.loss, replace(b.recipe, steps=3, precision="fp32"), Extras(b.state))
    expected = start
    for step in done.steps:
        assert step["retain"] == pytest.approx(expected * step["retain_loss"], rel=1e-5)
        expected = max(0.0, expected + 0.5 * (step["retain_loss"] - epsilon))
    assert b.state.value == pytest.approx(expected)
    assert expected != start


# ---- rmu


def scored(states: torch.Tensor, rows: list[Row]) -> torch.Tensor:
    return torch.cat([states[i, max(1, r.scored_from) - 1 : len(r.ids) - 1] for i, r in enumerate(rows)])


def hidden(model: Any, rows: list[Row], layer: int) -> torch.Tensor:
    with torch.no_grad():
        states = model(input_ids=collate(rows, slice(None), "cpu").ids, output_hidden_states=True).hidden_states
    return scored(states[layer + 1], rows).double()


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_rmu_draws_forget_states_to_a_direction_and_retain_states_to_where_they_were(layer: int) -> None:
    model, held = small(0, layers=4), small(1, layers=4)
    b = bind(RMU(layer=layer, c=5.0, gamma=0.5, alpha=3.0), model, held)
    u = torch.tensor(rng(DATA.seed, "direction").random(8))
    pull = (hidden(model, b.batch["forget"], layer) - 5 * u / u.norm()).square().sum(1).mean()  # type: ignore[arg-type]
    stay = (hidden(model, b.batch["retain"], layer) - hidden(held, b.batch["retain"], layer)).square().sum(1).mean()  # type: ignore[arg-type]
    assert b.number == pytest.approx(float(0.5 * pull + 3 * stay), rel=1e-5)


def test_rmu_trains_only_the_output_matrices_up_to_its_layer() -> None:
    for layer, depth, expected in ((2, 3, (0, 1, 2)), (3, 2, (2, 3)), (0, 3, (0,)), (-1, 1, (2,))):
        b = bind(RMU(layer=layer, depth=depth), small(0, layers=4), small(1, layers=4))
        names = [n for n, p in b.model.named_parameters() if p.requires_grad]
        assert names == [f"gpt_neox.layers.{i}.mlp.dense_4h_to_h.weight" for i in expected]


def test_rmu_steers_block_7_or_the_middle_of_a_small_model() -> None:
    assert [RMU().chosen(small(0, layers=n)) for n in (1, 2, 3, 12, 16, 32)] == [0, 1, 1, 6, 7, 7]


def test_rmu_refuses_a_layer_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"layer=4, depth=3: expected a block from 0 to 3"):
        RMU(layer=4).chosen(small(0, layers=4))


# ---- the controls


def test_random_labels_learn_the_drawn_tokens_and_nothing_else() -> None:
    model = lookup(0)
    b = bind(RandomLabels(), model, lookup(1))
    rows, groups = b.batch["forget"], b.groups()
    each = []
    for r, serial in zip(rows, groups["forget"].serial.tolist(), strict=True):
        drawn = rng(DATA.seed, "labels", serial).integers(VOCABULARY, size=6)
        for t in range(max(1, r.scored_from), len(r.ids)):
            logits = model.table.weight[r.ids[t - 1]]
            each.append(-float(logits.log_softmax(-1)[drawn[t]]))
    assert b.number == pytest.approx(sum(each) / len(each), rel=1e-5)


def test_random_labels_are_uniform_over_the_vocabulary_and_new_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def stand_in(model: Any, group: Any) -> torch.Tensor:
        seen.append(group.labels)
        return torch.zeros(())

    monkeypatch.setattr(random_labels, "nll_sum", stand_in)
    rows = [Row(tuple(range(10)) * 30, 5, str(i)) for i in range(8)]
    b = bind(RandomLabels(), lookup(0), lookup(1), replace(DATA, forget=rows))
    for step in range(4):
        b.terms(b.groups(step=step))
    assert all(bool((labels[:, :5] == IGNORED).all()) for labels in seen)
    drawn = torch.stack(seen)[:, :, 5:]
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0, 0], drawn[0, 1])
    share = drawn.flatten().bincount(minlength=VOCABULARY) / drawn.numel()
    torch.testing.assert_close(share, torch.full((VOCABULARY,), 1 / VOCABULARY), atol=0.01, rtol=0)


def test_retain_only_is_the_retain_loss_and_never_meets_a_forget_text() -> None:
    model, held = lookup(0), lookup(1)
    b = bind(RetainOnly(), model, held)
    assert set(b.batch) == {"retain"}
    assert b.number == pytest.approx(mean_nll(model, ROWS), rel=1e-5)
    assert bind(RetainOnly(retain_loss="kl"), model, held).number == pytest.approx(mean_kl(held, model, ROWS), rel=1e-5)


# ---- the task vector


def test_the_task_vector_is_taken_away_alpha_times_from_the_held_weights() -> None:
    before, after = ({"w": torch.tensor([1.0, 2.0]), "n": torch.tensor([3])} | new for new in ({}, {"w": torch.tensor([1.5, 1.0])}))
    held: Any = SimpleNamespace(
        folder=None, fresh=lambda: SimpleNamespace(state_dict=lambda: before), with_state=lambda state: state,
    )  # fmt: skip
    train_: Any = SimpleNamespace(fit=lambda *_, **__: SimpleNamespace(fresh=lambda: SimpleNamespace(state_dict=lambda: after)))
    result: Any = TaskVector(alpha=4.0).unlearn(held, DATA, train_)
    assert result["w"].tolist() == [-1.0, 6.0]
    assert result["n"].tolist() == [3]


def test_the_task_vector_overfits_the_forget_texts() -> None:
    model = lookup(0)
    assert bind(TaskVector(), Lookup(model.table.weight.detach()), model).number == pytest.approx(mean_nll(model, FORGET), rel=1e-5)
