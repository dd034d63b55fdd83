"""A training that is interrupted resumes to the same weights, history and state of the method; saving costs little."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.progress import Progress
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.training import resume
from palimpsest.benchmark.training.batches import Group, Term, Terms
from palimpsest.benchmark.training.loop import Extras, Trained, train
from palimpsest.benchmark.training.losses import language_model_loss, nll_sum
from palimpsest.benchmark.training.recipe import Recipe
from palimpsest.benchmark.training.resume import Checkpoint
from tests.benchmark.resume_worker import apart
from tests.benchmark.uneven_rows import PLAIN, furthest, uneven
from tests.ranks import ranks


class Dual:
    """A number that a method changes while it trains, and that its loss reads."""

    def __init__(self) -> None:
        self.value = 1.0

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, saved: dict[str, float]) -> None:
        self.value = saved["value"]

    def after_step(self, terms: dict[str, float]) -> None:
        self.value = 0.5 * self.value + 0.1 * terms["nll"]

    def loss(self, model: nn.Module, groups: dict[str, Group]) -> Terms:
        return {"nll": Term(nll_sum(model, groups["text"]), "tokens", "text", self.value)}


class StoppedError(Exception):
    """Stands for whatever ends a run early."""


def both(first: Progress, second: Progress) -> Progress:
    return lambda what, done, of: (first(what, done, of), second(what, done, of))


def interrupt_after(step: int) -> Progress:
    def progress(what: str, done: int, of: int) -> None:
        if done == step:
            raise StoppedError

    return progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Progress:
    """A clock that stands still but for ten seconds a step; called as progress."""
    now = itertools.count(0, 10)
    time = [next(now)]
    monkeypatch.setattr(resume, "monotonic", lambda: time[0])

    def tick(what: str, done: int, of: int) -> None:
        time[0] = next(now)

    return tick


@pytest.mark.parametrize(("after", "every", "kept"), [(2, 0, 2), (5, 0, 5), (2, 20, 0), (3, 20, 3), (4, 20, 3), (5, 20, 5), (5, 25, 4)])
def test_an_interrupted_run_resumes_to_the_same_weights_history_and_method_state(
    tiny: Subject, tmp_path: Path, clock: Progress, after: int, every: float, kept: int
) -> None:
    """Saved where at least `every` seconds have passed: what follows the last saving is done again."""

    recipe = Recipe(lr=1e-3, steps=6, schedule="linear", warmup=0.3, weight_decay=0.1, precision="fp32", micro_batch=4)

    def run(dual: Dual, **how: Any) -> Trained:
        return train(tiny.fresh(), uneven, dual.loss, recipe, Extras(dual), **how)

    dual = Dual()
    straight = run(dual)
    with pytest.raises(StoppedError):
        run(Dual(), resume=tmp_path / "run", save_every=every, progress=both(clock, interrupt_after(after)))
    again, seen = Dual(), []
    resumed = run(again, resume=tmp_path / "run", save_every=every, progress=lambda what, step, of: seen.append(step))
    assert seen == list(range(kept + 1, 7))
    assert resumed.steps == straight.steps
    assert resumed.tokens == straight.tokens
    assert again.value == dual.value
    assert furthest(resumed.state, straight.state) == 0.0


def test_a_run_that_was_stopped_before_its_first_save_starts_again(tiny: Subject, tmp_path: Path) -> None:
    straight = train(tiny.fresh(), uneven, language_model_loss, PLAIN)
    with pytest.raises(StoppedError):
        train(tiny.fresh(), uneven, language_model_loss, PLAIN, resume=tmp_path / "run", progress=interrupt_after(1))
    resumed = train(tiny.fresh(), uneven, language_model_loss, PLAIN, resume=tmp_path / "run")
    assert furthest(resumed.state, straight.state) == 0.0


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda file: file.write_bytes(b""), "header"),
        (lambda file: file.write_bytes(file.read_bytes()[:-100]), "header|cover"),
        (lambda file: save_file(load_file(file), file), "does not say where"),
        (lambda file: save_file(load_file(file), file, {"position": "[1]"}), "does not say where"),
        (lambda file: save_file({"other": torch.zeros(1)}, file, {"position": '{"step": 2, "method": null}'}), r"weight/model\..* missing"),
    ],
    ids=["empty", "cut", "no position", "another position", "other weights"],
)
def test_a_damaged_state_is_named_and_training_begins_anew(
    tiny: Subject, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], Any], why: str
) -> None:
    """A state saves time and nothing else; the next saving replaces it."""
    folder, file = tmp_path / "run", tmp_path / "run" / "state.safetensors"
    with pytest.raises(StoppedError):
        train(tiny.fresh(), uneven, language_model_loss, PLAIN, resume=folder, save_every=0, progress=interrupt_after(2))
    damage(file)
    straight, seen = train(tiny.fresh(), uneven, language_model_loss, PLAIN), list[int]()
    caplog.clear()
    again = train(
        tiny.fresh(), uneven, language_model_loss, PLAIN, resume=folder, save_every=0, progress=lambda what, step, of: seen.append(step)
    )
    assert seen == [1, 2, 3]
    assert furthest(again.state, straight.state) == 0.0
    (said,) = [r.getMessage() for r in caplog.records if r.name == resume.__name__]
    assert re.search(rf"{file}.*({why}).*begins anew", said)
    assert "weight/model.gpt_neox.embed_in.weight" in load_file(file), "saved anew"


def test_ranks_that_do_not_all_find_a_state_begin_anew_together(tiny: Subject, tmp_path: Path) -> None:
    """Only the first rank saves, here to a place that the other does not see."""
    ranks(2, apart, tiny.folder, tmp_path, limit=240)
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert seen == [[1, 2, 3, 4, 5]] * 2


def test_what_is_saved_is_one_safetensors_file(tiny: Subject, tmp_path: Path) -> None:
    train(tiny.fresh(), uneven, language_model_loss, PLAIN, resume=tmp_path / "run", save_every=0)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == ["run", "run/state.safetensors"]


def test_saving_takes_a_twentieth_of_the_time_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0, 60, 60, 100, 859, 900])  # the beginning, asked, a saving of 40 s, asked twice
    monkeypatch.setattr(resume, "monotonic", lambda: next(times))
    saving = Checkpoint(tmp_path, engine_of(nn.Linear(2, 2)), None, every=60)
    assert saving.due
    saving.save({})
    assert [saving.due, saving.due] == [False, True]


@pytest.mark.parametrize(
    ("given", "on", "where"),
    [({"capturable": True}, "meta", "meta"), ({}, "meta", "cpu"), ({"fused": True}, device().type, device().type)],
)
def test_an_optimizer_gets_its_step_where_it_keeps_it(tmp_path: Path, given: dict[str, bool], on: str, where: str) -> None:
    """On the device where its kernels want it there (capturable, fused), else on the CPU."""
    before = engine_of(nn.Linear(3, 2))
    before.module(torch.ones(1, 3)).sum().backward()
    before.optimizer.step()
    Checkpoint(tmp_path, before, None).save({"step": 1})
    after = engine_of(nn.Linear(3, 2, device=on), **given)
    assert Checkpoint(tmp_path, after, None).load() == {"step": 1, "method": None}
    for slots in after.optimizer.state.values():
        assert {k: v.device.type for k, v in slots.items()} == {"step": where, "exp_avg": on, "exp_avg_sq": on}
        assert slots["step"].ndim == 0


def engine_of(module: nn.Module, **given: bool) -> Any:
    """What a checkpoint needs of an engine under ZeRO-0."""
    optimizer = torch.optim.AdamW(module.parameters(), **given)
    return SimpleNamespace(module=module, optimizer=optimizer, global_rank=0, zero_optimization_stage=lambda: 0)
