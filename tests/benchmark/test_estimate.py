"""Estimates of time: by what stages alike took, else by rates that were measured once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.running import estimate
from palimpsest.benchmark.running.estimate import Estimates, Rates, paced
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Stage, Store, Work
from palimpsest.benchmark.suites.config import load_suite

RATES = Rates(trained=100, asked=1000, scored=500, said=10)


@pytest.fixture
def run(tiny: Subject, tmp_path: Path) -> Run:
    changes = [f"model={tiny.folder}", "precision=fp32", "attack=quantise", "method=npo", "per_role=8"]
    return Run(load_suite("smoke", changes), Store(tmp_path))


@pytest.fixture
def known(run: Run, monkeypatch: pytest.MonkeyPatch) -> Estimates:
    """Estimates at rates that nobody measured."""
    monkeypatch.setattr(estimate, "rates_of", lambda run: RATES)
    return Estimates(run)


def stage(work: Work) -> Stage:
    return Stage("method", "a stage", {"work": repr(work)}, lambda folder: None, lambda: work)


def test_without_evidence_a_stage_takes_what_its_tokens_take(known: Estimates) -> None:
    assert known.seconds(stage(Work("x", trained=200, asked=3000, scored=250, said=5, other=4))) == 4 + 2 + 3 + 0.5 + 0.5


@pytest.mark.parametrize(
    ("alike", "seconds"),
    [
        ("method npo", 3 * 11),  # as the same method took
        ("method rmu", 2 * 11),  # as methods took: 44 s in place of 22
        ("attack gcg", 11),
    ],
)
def test_stages_alike_are_the_better_evidence(known: Estimates, run: Run, alike: str, seconds: float) -> None:
    for name, took in [("method npo", 33), ("method gradient_ascent", 11)]:
        known.learn({"seconds": took, "work": vars(Work(name, run.where, trained=1000))})
    assert known.seconds(stage(Work(alike, run.where, trained=1000))) == pytest.approx(seconds)


@pytest.mark.parametrize("manifest", [{}, {"work": {}}, {"work": vars(Work("method npo", "another machine", trained=1000))}])
def test_stages_of_another_place_are_none(known: Estimates, run: Run, manifest: dict[str, Any]) -> None:
    known.learn({"seconds": 99.0} | manifest)
    assert known.seconds(stage(Work("method npo", run.where, trained=1000))) == 11


@pytest.mark.parametrize(
    "odd",
    [
        "null", "[]", '"text"', "7", "{}",
        '{"work": null, "seconds": 99}', '{"work": [], "seconds": 99}', '{"work": "much", "seconds": 99}',
        '{"work": {"where": WHERE, "alike": "method npo", "trained": 1000, "dreamt": 7}, "seconds": 99}',
        '{"work": {"where": WHERE, "alike": "method npo", "trained": 1000}}',
        '{"work": {"where": WHERE, "alike": "method npo", "trained": 1000}, "seconds": null}',
        '{"work": {"where": WHERE, "alike": "method npo", "trained": 1000}, "seconds": "long"}',
        '{"work": {"where": WHERE, "alike": "method npo", "trained": 1000}, "seconds": NaN}',
        '{"work": {"where": WHERE, "alike": "method npo", "trained": "1000"}, "seconds": 99}',
        '{"work": {"where": WHERE, "alike": null, "trained": 1000}, "seconds": 99}',
        '{"work": {"where": WHERE, "alike": "method npo", "other": 0}, "seconds": 99}',
        '{"work": {"where": WHERE', "[" * 100_000,
    ],
)  # fmt: skip
def test_manifests_that_tell_no_time_are_left_out(run: Run, monkeypatch: pytest.MonkeyPatch, odd: str) -> None:
    """Those of a later version of the store, too; what is damaged is reported where it is used."""
    monkeypatch.setattr(estimate, "rates_of", lambda run: RATES)
    (folder := run.store.root / "method" / "0123456789abcdef").mkdir(parents=True)
    (folder / "manifest.json").write_text(odd.replace("WHERE", json.dumps(run.where)))
    assert Estimates(run).seconds(stage(Work("method npo", run.where, trained=1000))) == 11


@pytest.mark.parametrize("said", ["", "null", "[]", "{}", '{"trained": 0, "asked": 1, "scored": 1, "said": 1}', "as measured before"])
def test_rates_of_no_use_or_of_an_earlier_pacing_are_measured_anew(run: Run, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setattr(estimate, "measure", lambda run: RATES)
    estimate.rates_of(run)
    (file,) = (run.store.root / ".rates").iterdir()
    before = said == "as measured before"
    if before:
        monkeypatch.setattr(estimate, "PACING", estimate.PACING + 1)
    else:
        file.write_text(said)
    monkeypatch.setattr(estimate, "measure", lambda run: Rates(1, 2, 3, 4))
    assert estimate.rates_of(run) == estimate.rates_of(run) == Rates(1, 2, 3, 4)
    assert len(list((run.store.root / ".rates").iterdir())) == 1 + before


def test_what_is_measured_once_is_found_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    run.progress = lambda what, done, of: said.append(what)
    first = Estimates(run)
    assert said == ["measuring how fast this machine trains and reads the model"]
    assert min(vars(first.rates).values()) > 0
    assert all(p.grad is None for p in run.base.model.parameters())
    monkeypatch.setattr(estimate, "measure", lambda run: pytest.fail("measured again"))
    assert Estimates(run).rates == first.rates


def test_every_stage_of_a_plan_says_its_work(run: Run) -> None:
    work = {s.label: s.work() for s in run.plan}
    assert all(w.alike and w.where == run.where for w in work.values())
    rows = run.stream(0).steps * 32 * 160
    assert work["inject, seed 0"].trained == work["retrained twin, seed 0"].trained == work["retrain, seed 0"].trained == rows
    epochs = run.methods["npo"][1].epochs
    assert work["npo, seed 0"].trained == epochs * 2 * 8 * 160  # forget and retain rows
    prefix = run.who.attacks[0]
    each = sum(len(ids) for ids in {p.prompt + p.target for p in run.who.probes(0).of(prefix, run.encoded(0)[:1])})
    assert work["attacks of tier 0 on npo, seed 0"].asked == 24 * each + 24 * 160
    assert work["quantise on npo, seed 0"].asked > 0
    assert work["unchanged on npo, seed 0"].asked == 0, "the batteries' answers are kept"
    assert 30 * 100 < work["quality of npo, seed 0"].scored < 30 * 2000


class Timed:
    """Work that takes as long as it is told; the first call a second more, which is no part of a rate."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, a_batch: float, a_token: float):
        self.now, self.given, self.a_batch, self.a_token = 0.0, list[int](), a_batch, a_token
        monkeypatch.setattr(estimate, "perf_counter", lambda: self.now)

    def __call__(self, part: list[tuple[int, ...]]) -> None:
        self.given.append(sum(map(len, part)))
        self.now += self.a_batch + self.a_token * self.given[-1] + (len(self.given) == 1)


def test_a_rate_is_that_of_a_batch_that_takes_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Timed(monkeypatch, 0, 5e-3)
    assert paced(work, [tuple(range(100))] * 32) == pytest.approx(200)
    assert work.given == [32, 32, 100]
    work.given.clear()
    assert paced(work, [tuple(range(10))] * 3) == pytest.approx(200)
    assert work.given == [10, 30]


def test_a_rate_is_that_of_a_batch_that_is_large_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch costs half a second however small it is: the least one would make a large model's stages five times as long."""
    work = Timed(monkeypatch, 0.5, 4e-3)
    assert paced(work, [tuple(range(160))] * 32) == pytest.approx(1920 / (0.5 + 7.68))
    assert work.given == [32, 32, 128, 480, 1920]  # the next would take half a minute


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), RuntimeError("CUDA error: out of memory"), MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 B"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]  # fmt: skip


class Fitting(Timed):
    """The same, on a machine whose memory holds so many tokens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int, error: BaseException):
        super().__init__(monkeypatch, 0.05, 1e-3)
        self.most, self.error = most, error

    def __call__(self, part: list[tuple[int, ...]]) -> None:
        super().__call__(part)
        if self.given[-1] > self.most:
            raise self.error


@pytest.mark.parametrize("error", FULL, ids=lambda e: type(e).__name__)
def test_where_a_batch_does_not_fit_the_rate_of_the_one_before_holds(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    work = Fitting(monkeypatch, 200, error)
    assert paced(work, [tuple(range(160))] * 32) == pytest.approx(128 / (0.05 + 0.128))
    assert work.given == [32, 32, 128, 480]


@pytest.mark.parametrize("error", FULL, ids=lambda e: type(e).__name__)
def test_a_model_of_which_no_batch_fits_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    with pytest.raises(UserError, match=r"The memory here \(.*\) does not hold the model and a batch of 32 tokens.* Free the memory"):
        paced(Fitting(monkeypatch, 10, error), [tuple(range(160))] * 32)


def test_other_errors_of_work_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="device-side assert"):
        paced(Fitting(monkeypatch, 200, RuntimeError("CUDA error: device-side assert triggered")), [tuple(range(160))] * 32)


def test_a_model_that_cannot_be_trained_on_one_device_is_estimated_all_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be trained with offload, or over several: then a step takes about as long as three times its reading."""

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(estimate, "collate", full)
    found = estimate.measure(run)
    assert found.trained == pytest.approx(found.asked / 3)
