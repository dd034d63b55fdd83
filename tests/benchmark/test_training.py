"""The training loop: global counts, accumulation, learning rates, and refusing a loss that is not finite."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import deepspeed
import pytest
import torch
from deepspeed.ops.op_builder.builder import OpBuilder
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import Batch, Row
from palimpsest.benchmark.models.logits import hidden_states
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.training import loop as training
from palimpsest.benchmark.training.batches import IGNORED, Group, Term, Terms, collate, counts
from palimpsest.benchmark.training.loop import train
from palimpsest.benchmark.training.losses import language_model_loss, nll_sum, ordered_sums, row_sums, token_nll
from palimpsest.benchmark.training.recipe import Recipe
from tests.benchmark.uneven_rows import PLAIN, furthest, text, uneven, weights

# ---- counting


def test_the_loss_is_the_mean_over_all_scored_tokens_and_not_over_rows(tiny: Subject) -> None:
    batch = {"text": text([50, 5, 20])}
    done = train(tiny.fresh(), lambda step: batch, language_model_loss, replace(PLAIN, steps=1, micro_batch=1))
    total, number = 0.0, 0
    for row in batch["text"]:
        ids = torch.tensor([row.ids], device=device())
        with torch.no_grad():
            logits = tiny.model(input_ids=ids).logits
        total += float(nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum"))
        number += len(row.ids) - 1
    assert number == 49 + 4 + 19
    assert done.steps[0]["nll"] == pytest.approx(total / number, rel=1e-6)


def test_counts_are_scored_tokens_and_rows_of_every_group() -> None:
    batch = {"forget": text([10, 4], scored_from=3), "retain": text([7])}
    assert counts(batch) == {("forget", "tokens"): 8, ("forget", "sequences"): 2, ("retain", "tokens"): 6, ("retain", "sequences"): 1}


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 5])
def test_accumulating_micro_batches_gives_the_weights_of_one_big_batch(tiny: Subject, micro_batch: int) -> None:
    whole = train(tiny.fresh(), uneven, language_model_loss, PLAIN)
    parts = train(tiny.fresh(), uneven, language_model_loss, replace(PLAIN, micro_batch=micro_batch))
    assert [s["nll"] for s in parts.steps] == pytest.approx([s["nll"] for s in whole.steps], abs=1e-5)
    assert furthest(parts.state, whole.state) < 1e-4  # as below
    assert furthest(whole.state, weights(tiny)) > 1e-3


def test_the_number_of_micro_batches_may_change_from_step_to_step(tiny: Subject) -> None:
    def batch_at(step: int) -> Batch:
        return {"text": text([[7, 9, 11, 13, 30, 6], [9, 30, 12, 20], [8, 25, 6, 9, 14], [14]][step], step)}

    recipe = replace(PLAIN, steps=4)
    whole = train(tiny.fresh(), batch_at, language_model_loss, recipe)
    parts = train(tiny.fresh(), batch_at, language_model_loss, replace(recipe, micro_batch=2))
    assert [s["nll"] for s in parts.steps] == pytest.approx([s["nll"] for s in whole.steps], abs=1e-5)
    assert furthest(parts.state, whole.state) < 1e-4  # Adam enlarges rounding where a gradient is nearly 0; a wrong step moves 1e-3


def test_groups_of_different_sizes_are_each_divided_by_their_own_count(tiny: Subject) -> None:
    def two(model: nn.Module, groups: dict[str, Group]) -> Terms:
        ones = {g: groups[g].real.float().sum() for g in groups}  # how many rows are real
        anchor = 0.0 * nll_sum(model, groups["a"])
        return {
            "rows": Term(ones["a"] + anchor, "sequences", "a"),
            "tokens": Term((groups["b"].labels != IGNORED).sum() + anchor, "tokens", "b", 3.0),
        }

    batch = {"a": text([6, 6, 6, 6, 6]), "b": text([9])}
    done = train(tiny.fresh(), lambda step: batch, two, replace(PLAIN, steps=1, micro_batch=2))
    assert done.steps == [{"rows": pytest.approx(1.0), "tokens": pytest.approx(3.0)}]


def test_tokens_count_every_id_that_was_read(tiny: Subject) -> None:
    done = train(tiny.fresh(), uneven, language_model_loss, PLAIN)
    assert done.tokens == 3 * (9 + 40 + 23 + 31 + 12 + 17)


# ---- what never counts


def test_pad_prompt_and_first_positions_have_no_label() -> None:
    group = collate([Row((5, 6, 7, 8, 9), 3), Row((1, 2, 3)), Row((4, 5, 6), 0)], slice(None), "cpu")
    x = IGNORED
    assert group.labels.tolist() == [[x, x, x, 8, 9], [x, 2, 3, x, x], [x, 5, 6, x, x]]
    assert group.ids.tolist() == [[5, 6, 7, 8, 9], [1, 2, 3, 0, 0], [4, 5, 6, 0, 0]]
    assert group.real.tolist() == [True] * 3


def test_a_micro_batch_without_rows_is_filled_by_one_that_is_not_real_and_has_no_labels() -> None:
    group = collate([Row((5, 6, 7), name="a")], slice(1, None, 2), "cpu")
    assert group.real.tolist() == [False]
    assert set(group.labels.flatten().tolist()) == {IGNORED}


def test_what_stands_in_pad_and_prompt_labels_cannot_change_a_loss(tiny: Subject) -> None:
    rows = [Row(tuple(range(100, 120)), 8), Row(tuple(range(200, 210)), 4)]
    together = collate(rows, slice(None), device())
    alone = [collate([r], slice(None), device()) for r in rows]
    with torch.no_grad():
        assert float(nll_sum(tiny.model, together)) == pytest.approx(sum(float(nll_sum(tiny.model, g)) for g in alone), rel=1e-6)
        other_pad = replace(together, ids=together.ids.masked_fill(together.ids == 0, 77))
        assert torch.equal(nll_sum(tiny.model, other_pad), nll_sum(tiny.model, together))
        assert len(token_nll(tiny.model, together)[0]) == 12 + 6


def test_places_of_scored_tokens_are_those_of_the_labels_also_of_others_than_were_collated() -> None:
    group = collate([Row((5, 6, 7, 8, 9), 3), Row((1, 2, 3)), Row((4, 5, 6), 0)], slice(None), device())
    assert group.places.tolist() == [2, 3, 5, 6, 10, 11]
    assert group.scored.tolist() == [8, 9, 2, 3, 5, 6]
    fewer = replace(group, labels=group.labels.masked_fill(group.labels == 5, IGNORED))
    assert fewer.scored.tolist() == [8, 9, 2, 3, 6]
    assert fewer.places.tolist() == [2, 3, 5, 6, 11]
    group.labels[0] = IGNORED  # in place
    assert group.scored.tolist() == [2, 3, 5, 6]
    with torch.inference_mode():
        assert collate([Row((5, 6))], slice(None), device()).places.tolist() == [0]


class Waits(TorchDispatchMode):
    """Counts what a GPU must finish before the next line of Python runs: numbers and sizes that are read off its tensors."""

    seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masked = func is torch.ops.aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1])
        self.seen += masked or func in (torch.ops.aten.nonzero.default, torch.ops.aten._local_scalar_dense.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("loss", [nll_sum, lambda model, group: token_nll(model, group)[0].sum()])
def test_a_loss_and_its_gradient_wait_for_nothing_but_what_the_library_asks_before_its_layers(loss: Any, tiny: Subject) -> None:
    model, group = tiny.fresh(), collate(text([12, 5, 9]), slice(None), device())
    model.to(device())
    loss(model, group)  # what is found out once about a model
    with Waits() as library:
        hidden_states(model, group.ids)
    with Waits() as found:
        loss(model, group).backward()
    assert found.seen == library.seen <= 1, "whether rows are packed"
    with Waits() as found:
        loss(model, replace(group, labels=group.labels.clone()))
    assert found.seen > library.seen, "nothing was told of these labels"


def test_serial_numbers_do_not_depend_on_how_rows_are_dealt() -> None:
    rows = text([5, 6, 7, 8])
    dealt = [collate(rows, slice(k, None, 2), "cpu", step=3).serial.tolist() for k in range(2)]
    assert dealt == [[12, 14], [13, 15]]


# ---- learning rates


def test_a_constant_schedule_keeps_the_learning_rate_after_warming_up() -> None:
    recipe = Recipe(lr=1.0, steps=10, warmup=0.4)
    assert [recipe.lr_at(s) for s in range(10)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1])


def test_a_linear_schedule_falls_by_equal_amounts_towards_its_final_share() -> None:
    recipe = Recipe(lr=2.0, steps=4, schedule="linear", final_lr=0.2)
    assert [recipe.lr_at(s) for s in range(5)] == pytest.approx([2.0, 1.6, 1.2, 0.8, 0.4])


def test_a_cosine_schedule_is_half_way_in_the_middle() -> None:
    recipe = Recipe(lr=1.0, steps=8, schedule="cosine", final_lr=0.0)
    assert [recipe.lr_at(s) for s in (0, 2, 4, 6, 8)] == pytest.approx([1.0, 0.8535533906, 0.5, 0.1464466094, 0.0])


@pytest.mark.parametrize("steps", [1, 7, 20, 49, 130])
def test_warming_up_over_part_of_a_step_never_goes_above_the_learning_rate(steps: int) -> None:
    recipe = Recipe(lr=1.0, steps=steps, schedule="linear", warmup=0.02)
    assert 0.1 <= min(recipe.lr_at(s) for s in range(steps)) <= max(recipe.lr_at(s) for s in range(steps)) <= 1.0


def test_the_loop_trains_with_the_learning_rate_of_each_step(tiny: Subject) -> None:
    """Adam without memory (betas 0) moves every weight that has a gradient by lr, however large the gradient is."""
    model = tiny.fresh()
    watched = model.gpt_neox.layers[0].mlp.dense_h_to_4h.weight
    seen = [watched.detach().cpu().clone()]
    recipe = Recipe(lr=1e-3, steps=3, warmup=1.0, precision="fp32", clip=1e6, betas=(0.0, 0.0))
    train(model, uneven, language_model_loss, recipe, progress=lambda what, step, of: seen.append(watched.detach().cpu().clone()))
    moved = [float((after - before).abs().median()) for before, after in itertools.pairwise(seen)]
    assert moved == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3], rel=1e-2)


# ---- losses that are not finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_lower(tiny: Subject, bad: float) -> None:
    calls = []

    def loss(model: nn.Module, groups: dict[str, Group]) -> Terms:
        calls.append(1)
        return {"nll": Term(nll_sum(model, groups["text"]), "tokens", "text", 1.0 if len(calls) < 2 else bad)}

    with pytest.raises(UserError, match=r"not finite at step 1.*Lower lr \(now 0.001\)"):
        train(tiny.fresh(), uneven, loss, PLAIN)
    assert len(calls) == 2


# ---- what is started


def test_nothing_is_compiled_so_no_compiler_is_needed(tiny: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpBuilder, "jit_load", lambda *_: pytest.fail("DeepSpeed compiles an extension"))
    monkeypatch.setattr("deepspeed.comm.comm.cdb", None)  # as in a new process
    train(tiny.fresh(), uneven, language_model_loss, replace(PLAIN, steps=1))
    assert deepspeed.comm.comm.cdb.shm_comm_op is None


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)  # fmt: skip
def test_threads_spin_for_a_short_time_only_unless_the_user_says_how_they_wait(given: dict[str, str], spins: str) -> None:
    """Else two runs on one machine keep each other's cores; it must be set before torch is loaded, hence a new process."""
    ours = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    code = "import os, sys, palimpsest.benchmark; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], env=ours | given, capture_output=True, text=True, check=True).stdout
    assert said.split() == [spins, "False"]


@pytest.mark.skipif(device().type != "cpu", reason="is about a CPU")
def test_in_fp32_on_a_cpu_few_rows_are_in_one_pass_and_the_weights_are_the_same(tiny: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = {"text": text([12] * 40)}
    assert [training._micros(batch, replace(PLAIN, precision=p), 1) for p in ("fp32", "bf16")] == [3, 2]
    few = train(tiny.fresh(), lambda step: batch, language_model_loss, PLAIN)
    monkeypatch.setattr(training, "NEAR", 40)
    many = train(tiny.fresh(), lambda step: batch, language_model_loss, replace(PLAIN, micro_batch=40))
    assert furthest(few.state, many.state) < 1e-4  # as above; 2.2e-5 on a Xeon with AMX


def test_sums_of_rows_in_order_are_those_of_index_add() -> None:
    row = torch.arange(50) % 7
    values = torch.randn(50, dtype=torch.float64, requires_grad=True)
    for found in (row_sums(values, row, 9), ordered_sums(values, row, 9)):
        assert found.tolist() == pytest.approx([float(values[row == k].sum()) for k in range(9)])
        (gradient,) = torch.autograd.grad(found.square().sum(), values)
        assert torch.allclose(gradient, 2 * found.detach()[row])
