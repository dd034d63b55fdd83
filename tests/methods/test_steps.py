"""What a step of a method costs, and which rows it gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from torch import nn

from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.method import Descent, UnlearningData
from palimpsest.benchmark.training.batches import collate
from palimpsest.benchmark.training.loop import train
from palimpsest.benchmark.training.recipe import Recipe
from palimpsest.methods.grad_diff import GradDiff
from palimpsest.methods.gradient_ascent import GradientAscent
from palimpsest.methods.npo import NPO
from tests.methods.lookup import FORGET, RETAIN, label, reference, small

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
    table.log_probability(collate(FORGET, slice(None), device()))  # the table's own pass, before counting
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
