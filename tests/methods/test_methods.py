"""Every method is tested by being there: what all of them must keep."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from palimpsest.benchmark.common.plugins import Plugin, find, names
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.method import Descent, History, Method, Trainer, UnlearningData, alternatives
from palimpsest.benchmark.models.subject import Subject, open_subject
from palimpsest.benchmark.suites.config import InjectionConfig
from palimpsest.benchmark.texts.stream import Stream, injected
from palimpsest.benchmark.training import trainer as trainer_module
from palimpsest.benchmark.training.batches import collate
from palimpsest.benchmark.training.loop import Trained
from palimpsest.benchmark.training.losses import language_model_loss, nll_sum
from palimpsest.benchmark.training.recipe import Recipe
from tests.conftest import Memorised

METHODS = names("method")
CHANGES_NOTHING = {"none"}
LR = 1e-3  # at the default rate two steps of the tiny model would hardly show
WORK: dict[str, dict[str, Any]] = {  # methods that train a small part of the model need larger steps to show in so few
    "neuron_pruning": {"lr": 0.5, "epochs": 2, "batch": 2, "penalty": 1.0},
    "rmu": {"lr": 1e-2, "epochs": 1, "batch": 2},
    "sparse_finetuning": {"lr": 1e-2, "epochs": 1, "batch": 2, "gamma": 1.0},
}
NO_AIM = {"retain_only"}  # a control that never meets the forget texts
DESCENTS = [n for n in METHODS if issubclass(find("method", n).cls, Descent)]


@pytest.fixture(scope="module")
def data(memorised: Memorised) -> UnlearningData:
    """The tiny model's forget set, and the stream of three steps that would have injected it."""
    tokens = np.random.default_rng(0).integers(1, 4096, 160 * 100)
    config = InjectionConfig(occurrences=(1,), density=0.5, batch=6, lr=LR)
    stream = Stream(tokens, injected(memorised.memories), config, seed=3)
    return UnlearningData(
        memorised.forget, memorised.shown, stream.retain.row, seed=4, history=History(memorised.base, stream),
        openings={m.id: m.opening for m in memorised.memories}, alternatives=alternatives(memorised.memories, memorised.base),
    )  # fmt: skip


def quick(plugin: Plugin) -> Method:
    """The method with as little work as its fields allow."""
    known = {f.name for f in fields(plugin.cls)}  # type: ignore[arg-type]
    work = WORK.get(plugin.name, {"epochs": 1, "batch": 2, "lr": LR})
    return plugin.make({k: v for k, v in work.items() if k in known})


def run(method: Method, held: Subject, data: UnlearningData) -> tuple[Subject, Trainer]:
    trainer = Trainer(precision="fp32", seed=1)
    given = data if method.needs_history else replace(data, history=None)
    return method.unlearn(held, given, trainer), trainer


def weights(subject: Subject) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in subject.fresh().state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_frozen_dataclass_that_says_what_it_is(name: str) -> None:
    plugin = find("method", name)
    assert issubclass(plugin.cls, Method)
    assert plugin.cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert vars(plugin.cls).get("__doc__"), "the docstring is inherited or missing"
    assert not plugin.doc.startswith(plugin.cls.__name__ + "(")  # what a dataclass without a docstring gets
    assert len(plugin.doc.split()) >= 4
    assert plugin.doc == plugin.doc.strip()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_can_be_made_from_its_defaults(name: str) -> None:
    plugin = find("method", name)
    assert plugin.make({}) == plugin.make(plugin.defaults)


@pytest.mark.parametrize("name", DESCENTS)
def test_a_method_that_is_a_loss_names_its_paper(name: str) -> None:
    assert "arXiv" in find("method", name).cls.paper


@pytest.mark.parametrize("name", METHODS)
def test_a_method_leaves_the_held_model_as_it_was_and_gives_the_same_result_twice(
    name: str, memorised: Memorised, data: UnlearningData, tmp_path: Path
) -> None:
    held = Subject(memorised.subject.folder)
    files = {p.name: p.read_bytes() for p in held.folder.iterdir()}
    before = weights(held)
    loaded = {k: v.clone() for k, v in held.model.state_dict().items()}
    method = quick(find("method", name))
    first, trainer = run(method, held, data)
    assert {p.name: p.read_bytes() for p in held.folder.iterdir()} == files
    assert same({k: v.cpu() for k, v in held.model.state_dict().items()}, {k: v.cpu() for k, v in loaded.items()})
    assert same(weights(held), before)

    second, _ = run(method, Subject(memorised.subject.folder), data)
    assert same(weights(first), weights(second))
    assert same(weights(first), before) == (name in CHANGES_NOTHING)
    assert (trainer.tokens > 0) == (name not in CHANGES_NOTHING)

    saved = tmp_path / "saved"
    saved.mkdir()
    first.save(saved)
    again = open_subject(str(saved))
    assert same(weights(again), weights(first))
    assert all(torch.isfinite(v).all() for v in weights(again).values())
    assert len(again.generate([memorised.memories[0].row[:16]], 4)[0]) == 4


@pytest.mark.parametrize("name", [n for n in DESCENTS if n not in NO_AIM])
def test_a_method_that_is_a_loss_makes_the_forget_set_less_likely(name: str, memorised: Memorised, data: UnlearningData) -> None:
    def nll(subject: Subject) -> float:
        with torch.no_grad():
            return float(nll_sum(subject.model, collate(data.forget, slice(None), device())))

    method: Any = quick(find("method", name))
    method = replace(method, epochs=3 * method.epochs)
    unlearned, trainer = run(method, memorised.subject, data)
    assert len(trainer.steps) == method.steps(data)
    assert nll(unlearned) > 1.5 * nll(memorised.subject)


@pytest.mark.parametrize("name", DESCENTS)
def test_another_seed_gives_another_model(name: str, memorised: Memorised, data: UnlearningData) -> None:
    method = quick(find("method", name))
    (one, _), (other, _) = (run(method, memorised.subject, replace(data, seed=s)) for s in (4, 5))
    assert not same(weights(one), weights(other))


def test_a_trainer_that_fits_twice_resumes_each_fit_from_its_own_folder(
    memorised: Memorised, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method may train more than once; the second training must not start where the first was last saved."""
    seen: list[Path | None] = []

    def stand_in(*_: Any, resume: Path | None, **__: Any) -> Trained:
        seen.append(resume)
        return Trained()

    monkeypatch.setattr(trainer_module, "train", stand_in)
    for _ in range(2):  # the second time as a run that was interrupted and begins again
        trainer = Trainer("fp32", resume=tmp_path / "run")
        for _ in range(2):
            trainer.fit(memorised.subject, lambda step: {}, language_model_loss, Recipe())
    first, second, *again = seen
    assert first != second
    assert again == [first, second]
    assert all(p is not None and p.is_relative_to(tmp_path / "run") for p in seen)
