"""FLOPs are those of the work that was done, however batches repeat; memory is what was added at the highest."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from palimpsest.benchmark.common.plugins import find
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.progress import Progress, silent
from palimpsest.benchmark.common.types import Batch, Row
from palimpsest.benchmark.method import Reference, Trainer, UnlearningData
from palimpsest.benchmark.models.logits import route
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.models.weights import linear_weights
from palimpsest.benchmark.training.batches import collate
from palimpsest.benchmark.training.loop import train
from palimpsest.benchmark.training.losses import language_model_loss, sequence_nll
from palimpsest.benchmark.training.metering import CPU_ATTENTION, Meter
from palimpsest.benchmark.training.recipe import Recipe

from ..conftest import Memorised

ROWS = [Row(tuple(range(i, i + 40)), name=str(i)) for i in range(4)]
STEPS = 5


def batch_at(step: int) -> Batch:
    """Two shapes in turn."""
    return {"text": ROWS[: 4 if step % 2 else 2]}


def counted(work: Callable[[], Any]) -> int:
    """The FLOPs of all of it, by the counter alone."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        work()
    return counter.get_total_flops()


def step_flops(subject: Subject, rows: int, tokens: int) -> int:
    """A step in closed form: 6 per weight of a matrix and token; attention 4 per head dimension forward and 10 backward."""
    shape = subject.model.config
    body = 6 * rows * tokens * sum(w.numel() for w in linear_weights(subject.model).values())
    head = 6 * rows * (tokens - 1) * subject.model.get_output_embeddings().weight.numel()
    return body + head + 14 * rows * tokens**2 * shape.hidden_size * shape.num_hidden_layers


def test_a_training_step_costs_what_its_matrix_products_and_attention_cost(tiny: Subject) -> None:
    with Meter() as meter:
        train(tiny.fresh(), lambda step: {"text": ROWS}, language_model_loss, Recipe(steps=STEPS), meter=meter)
    assert meter.flops == STEPS * step_flops(tiny, 4, 40)


def test_batches_of_a_known_shape_are_not_counted_again_and_still_add_up(tiny: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    plain = FlopCounterMode.__enter__
    monkeypatch.setattr(FlopCounterMode, "__enter__", lambda self: [opened.append(1), plain(self)][1])
    with Meter() as meter:
        train(tiny.fresh(), batch_at, language_model_loss, Recipe(steps=50), meter=meter)
    seen = len(opened)
    assert meter.flops == 25 * (step_flops(tiny, 4, 40) + step_flops(tiny, 2, 40))
    with Meter() as longer:
        train(tiny.fresh(), batch_at, language_model_loss, Recipe(steps=52), meter=longer)
    assert len(opened) - seen == seen + 2, "what lies between two steps is watched, the steps are not"


def test_one_counter_is_made_and_a_known_batch_is_put_together_unwatched(tiny: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    made, watched = [], []
    plain = FlopCounterMode.__init__
    monkeypatch.setattr(FlopCounterMode, "__init__", lambda self, *a, **given: [made.append(1), plain(self, *a, **given)][1])
    count = FlopCounterMode._count_flops
    monkeypatch.setattr(FlopCounterMode, "_count_flops", lambda self, *a: [watched.append(1), count(self, *a)][1])

    def operations(steps: int) -> int:
        before = len(watched)
        with Meter() as meter:
            train(tiny.fresh(), lambda step: {"text": ROWS}, language_model_loss, Recipe(steps=steps), meter=meter)
        return len(watched) - before

    few = operations(4)
    assert len(made) <= 2, "its own, and one that warms up"
    assert operations(14) - few < 10 * 10, "a batch of 4 rows is made of more, its training of hundreds"


@pytest.mark.parametrize("name", ["npo", "pdu", "sparse_finetuning", "whp", "dpo", "task_vector"])
def test_a_method_costs_its_steps_and_all_that_it_does_beside_them(name: str, memorised: Memorised) -> None:
    rows = memorised.forget
    other = {r.name: Row(r.ids[::-1], 16, r.name) for r in rows}
    data = UnlearningData(rows, memorised.shown, lambda k: ROWS[k % 4], openings={r.name: 16 for r in rows}, alternatives=other)
    method = find("method", name).make({"epochs": 3, "batch": 2})

    def unlearn(meter: Meter) -> None:
        method.unlearn(memorised.subject, data, Trainer(meter=meter))

    route(memorised.subject.model)  # it is asked once whether its head may be used alone
    with Meter() as meter:
        unlearn(meter)
    assert meter.flops == counted(lambda: unlearn(Meter())) > 0


def test_the_reference_table_is_paid_once(memorised: Memorised) -> None:
    def loss(model: Any, groups: dict[str, Any], reference: Reference | None) -> Any:
        terms = language_model_loss(model, groups)
        if reference:
            reference.log_probability(groups["text"])
        return terms

    def flops(reference: Reference | None) -> int:
        with Meter() as meter:
            recipe = Recipe(steps=STEPS)
            train(memorised.subject.fresh(), lambda step: {"text": ROWS}, lambda m, g: loss(m, g, reference), recipe, meter=meter)
        return meter.flops

    table = Reference(memorised.subject, ROWS)
    with torch.no_grad():
        once = counted(lambda: sequence_nll(memorised.subject.model, collate(ROWS, slice(None), device())))
    assert flops(table) - flops(None) == once


def test_work_without_a_training_loop_counts_too() -> None:
    with Meter() as meter:
        torch.ones(3, 5) @ torch.ones(5, 7)
        with torch.inference_mode():
            torch.nn.functional.linear(torch.ones(3, 5), torch.ones(7, 5))
    assert meter.flops == 2 * (2 * 3 * 5 * 7)


def test_an_interrupted_run_goes_on_counting(tiny: Subject, tmp_path: Path) -> None:
    class InterruptError(Exception):
        pass

    def stop(what: str, step: int, of: int) -> None:
        if step == 4:
            raise InterruptError

    def run(meter: Meter, progress: Progress = silent) -> None:
        with meter, pytest.raises(InterruptError) if progress is stop else nullcontext():
            recipe = Recipe(steps=6)
            train(tiny.fresh(), batch_at, language_model_loss, recipe, resume=tmp_path / "r", save_every=0, progress=progress, meter=meter)

    first, second = Meter(), Meter()
    run(first, stop)
    run(second)
    assert second.flops == 3 * (step_flops(tiny, 4, 40) + step_flops(tiny, 2, 40))
    assert second.seconds > first.seconds / 2


def test_a_meter_that_was_not_entered_measures_nothing(tiny: Subject) -> None:
    meter = Meter()
    train(tiny.fresh(), batch_at, language_model_loss, Recipe(steps=2), meter=meter)
    assert (meter.flops, meter.seconds, meter.peak) == (0, 0.0, None)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is known on Linux only")
def test_the_peak_is_what_was_added_at_the_highest_and_not_what_the_process_once_held() -> None:
    earlier = torch.ones(200, 2**18)  # MiB x numbers in one
    del earlier
    with Meter() as meter:
        torch.ones(100, 2**18).sum()
    assert meter.peak == pytest.approx(100, abs=20)
    assert meter.cost() == {"seconds": round(meter.seconds, 2), "flops": 0, "peak_mib": round(meter.peak or 0, 1)}
