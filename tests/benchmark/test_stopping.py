"""Early stopping: what is measured, when training ends, that measuring changes nothing, resuming, and the same on two processes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.plugins import find
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.method import UnlearningData
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.early_stopping import EarlyStopping, Monitor
from palimpsest.benchmark.suites.config import load_suite
from palimpsest.benchmark.texts.memories import encode, load_memories
from palimpsest.benchmark.training import resume
from palimpsest.benchmark.training.trainer import Trainer
from tests.conftest import ROW, Memorised
from tests.ranks import ranks

TEXT = [Row(tuple(range(100 * i + 1, 100 * i + 40 + 7 * i))) for i in range(5)]
STOP = {"every": 2, "exact": 0.5}
HELD = {"exact": 1.0, "held_out": 4.0}


def data(held: Subject, text: Sequence[Row] = TEXT) -> UnlearningData:
    """The four memories that the tiny model is to forget, and five rows of text that it never saw."""
    memories = [encode(m, held.tokenizer, ROW, "forget", False) for m in load_memories()[::16][:4]]
    return UnlearningData([Row(m.row, name=m.id) for m in memories], [], lambda k: TEXT[k % 5], seed=4, monitor=Monitor(memories, text))


def unlearn(
    held: Subject, stop: dict[str, Any] | None, stage: int = 0, text: Sequence[Row] = TEXT, **more: Any
) -> tuple[dict[str, Tensor], Trainer]:
    """Weights and trainer after at most twelve steps of gradient ascent."""
    fields = {k: more.pop(k) for k in ("lora", "lr") if k in more}
    method = find("method", "gradient_ascent").make({"lr": 1e-3, "epochs": 6, "batch": 2, "stop": stop, **fields})
    trainer = Trainer("fp32", f"zero{stage}", seed=1, **more)
    done = method.unlearn(held, data(held, text), trainer)
    return {k: v.detach() for k, v in done.fresh().named_parameters()}, trainer


def evaluations(trainer: Trainer) -> dict[int, dict[str, float]]:
    return {i + 1: {k: s[k] for k in ("exact", "held_out")} for i, s in enumerate(trainer.steps) if "exact" in s}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---- the rule


@pytest.mark.parametrize(
    ("stop", "exact", "loss", "ends"),
    [
        (EarlyStopping(), 0.0, 9.0, False),
        (EarlyStopping(exact=0.0), 0.0, 4.0, True),
        (EarlyStopping(exact=0.0), 0.1, 9.0, False),
        (EarlyStopping(rise=0.1), 0.0, 4.4, False),
        (EarlyStopping(rise=0.1), 1.0, 4.41, True),
        (EarlyStopping(exact=0.2, rise=0.1), 0.2, 4.0, True),
        (EarlyStopping(exact=0.2, rise=0.1), 0.3, 4.2, False),
        (EarlyStopping(rise=0.0), 1.0, 4.01, True),
    ],
)
def test_any_condition_that_was_given_ends_the_training(stop: EarlyStopping, exact: float, loss: float, ends: bool) -> None:
    assert stop.ends(HELD, {"exact": exact, "held_out": loss}) == ends


@pytest.mark.parametrize("wrong", [{"every": 0}, {"exact": 1.5}, {"exact": -0.1}, {"rise": -0.1}])
def test_values_without_meaning_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="expected at least 1 step"):
        find("method", "npo").make({"stop": wrong})


def test_the_rule_is_set_on_the_command_line() -> None:
    suite = load_suite("quick", ["method=npo", "methods.npo.stop.exact=0", "methods.npo.stop.rise=1e-1"])
    assert find("method", "npo").make(suite.methods["npo"]).stop == EarlyStopping(10, 0.0, 0.1)


def test_without_anything_to_evaluate_on_the_method_says_so(memorised: Memorised) -> None:
    method = find("method", "gradient_ascent").make({"stop": STOP})
    with pytest.raises(UserError, match="run it without `stop`"):
        method.unlearn(memorised.subject, UnlearningData(memorised.forget, [], lambda k: TEXT[k]), Trainer("fp32"))


# ---- what is measured


def test_an_evaluation_gives_what_comes_back_whole_and_the_loss_per_token(memorised: Memorised) -> None:
    monitor = Monitor(memorised.memories, TEXT)
    seen = monitor.evaluate(memorised.subject, "fp32")
    said = memorised.subject.generate([m.row[: m.opening] for m in memorised.memories], 64)
    assert seen["exact"] == sum(a == m.target for a, m in zip(said, memorised.memories, strict=True)) / len(said)
    total = 0.0
    for row in TEXT:
        ids = torch.tensor([row.ids], device=device())
        with torch.no_grad():
            total += float(memorised.subject.model(input_ids=ids, labels=ids).loss) * row.scored
    assert seen["held_out"] == pytest.approx(total / sum(r.scored for r in TEXT), rel=1e-5)
    assert Monitor(memorised.unseen, TEXT).evaluate(memorised.subject, "fp32")["exact"] == 0


# ---- training


@pytest.fixture(scope="module")
def ended(memorised: Memorised) -> tuple[dict[str, Tensor], Trainer]:
    """A run that its rule ends early."""
    return unlearn(memorised.subject, STOP)


def test_training_ends_at_the_first_evaluation_that_meets_the_rule(memorised: Memorised, ended: tuple[dict[str, Tensor], Trainer]) -> None:
    after, trainer = ended
    seen = evaluations(trainer)
    assert trainer.before["exact"] > 0.5
    assert list(seen) == list(range(2, len(trainer.steps) + 1, 2))
    assert len(trainer.steps) < 12
    assert [found["exact"] <= 0.5 for found in seen.values()] == [False] * (len(seen) - 1) + [True]
    held = memorised.subject.with_state(after)
    assert data(held).monitor.evaluate(held, "fp32") == seen[len(trainer.steps)]  # type: ignore[union-attr]


def test_evaluating_changes_nothing(memorised: Memorised) -> None:
    plain, without = unlearn(memorised.subject, None)
    evaluated, trainer = unlearn(memorised.subject, {"every": 5})
    assert same(plain, evaluated)
    assert list(evaluations(trainer)) == [5, 10]
    assert (without.before, evaluations(without), len(trainer.steps)) == ({}, {}, 12)


def test_a_loss_that_rises_too_far_ends_the_training(memorised: Memorised) -> None:
    same_text = memorised.forget  # ascent is sure to raise the loss of what it climbs
    _, trainer = unlearn(memorised.subject, {"every": 1, "rise": 0.5}, text=same_text)
    last = evaluations(trainer)[len(trainer.steps)]
    assert len(trainer.steps) < 12
    assert last["held_out"] > 1.5 * trainer.before["held_out"] >= max(s["held_out"] for s in trainer.steps[:-1])


def test_with_adapters_the_merged_model_is_evaluated(memorised: Memorised) -> None:
    after, trainer = unlearn(memorised.subject, {"every": 4}, lora={"rank": 2}, lr=1e-2)
    there = memorised.subject.with_state(after)
    assert data(there).monitor.evaluate(there, "fp32") == pytest.approx(evaluations(trainer)[12], rel=1e-5)  # type: ignore[union-attr]


class StoppedError(Exception):
    """Stands for whatever interrupts a run."""


@pytest.mark.parametrize("save_every", [0, 2, 3])
def test_an_interrupted_run_ends_at_the_same_step_with_the_same_history(
    memorised: Memorised, ended: tuple[dict[str, Tensor], Trainer], tmp_path: Path, save_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    after, straight = ended
    last = len(straight.steps)

    time = [0]
    monkeypatch.setattr(resume, "monotonic", lambda: time[0])

    def interrupt(what: str, step: int, of: int) -> None:
        time[0] += 1  # a step takes a second
        if step == last:
            raise StoppedError

    with pytest.raises(StoppedError):
        unlearn(memorised.subject, STOP, resume=tmp_path, save_every=save_every, progress=interrupt)
    again, trainer = unlearn(memorised.subject, STOP, resume=tmp_path, save_every=save_every)
    assert same(again, after)
    assert trainer.steps == straight.steps
    assert trainer.before == straight.before


# ---- several processes


def test_two_processes_end_at_the_step_of_one_under_zero_0_and_3(
    memorised: Memorised, ended: tuple[dict[str, Tensor], Trainer], tmp_path: Path
) -> None:
    after, one = ended
    ranks(2, work, memorised.subject.folder, tmp_path)
    for stage in (0, 3):
        (steps, before), other = (json.loads((tmp_path / f"zero{stage}-rank{r}.json").read_text()) for r in "01")
        assert other == [steps, before]
        assert before == pytest.approx(one.before, rel=1e-5)
        assert len(steps) == len(one.steps)
        assert all(a == pytest.approx(b, rel=1e-3) for a, b in zip(steps, one.steps, strict=True))
        found = load_file(tmp_path / f"zero{stage}.safetensors")
        assert max(float((found[k] - after[k]).abs().max()) for k in after) < 1e-3


def work(held: Path, out: Path) -> None:
    """One of two ranks: train under ZeRO-0 and ZeRO-3, and write the history and the weights."""
    torch.set_num_threads(1)
    for stage in (0, 3):
        after, trainer = unlearn(Subject(held), STOP, stage)
        (out / f"zero{stage}-rank{os.environ['RANK']}.json").write_text(json.dumps([trainer.steps, trainer.before]))
        if os.environ["RANK"] == "0":
            save_file({k: v.contiguous() for k, v in after.items()}, out / f"zero{stage}.safetensors")
