"""Strengths: a method as several rows, whose stages are those of ordinary runs with the same fields; what is declared changes no key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from palimpsest.benchmark.common import sources
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.sources import code_hash
from palimpsest.benchmark.common.types import OperatingPoint
from palimpsest.benchmark.conformance.methods import STRENGTHS
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.suites.config import Suite, load_suite, suite_names
from palimpsest.benchmark.suites.space import Strength
from tests.micro import micro_suite, write_corpus


@pytest.fixture(scope="module")
def suite(tiny: Subject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALIMPSEST_CACHE", str(tmp_path_factory.mktemp("cache")))
        methods = {"none": {}, "npo": {"lr": 2e-4, "epochs": 2}, "goldfish_retrain": {}}
        made = micro_suite(tiny.folder, write_corpus(tmp_path_factory.mktemp("texts")))
        yield replace(made, methods=methods, attacks={"prefix": {}, "paraphrase": {}})


def bound(suite: Suite, tmp_path: Path, **changes: object) -> Run:
    return Run(replace(suite, **changes), Store(tmp_path / "store"))  # type: ignore[arg-type]


# ---- values


@pytest.mark.parametrize(
    ("scale", "ordinary", "values"),
    [
        (Strength("lr"), 3e-5, [3.75e-6, 7.5e-6, 1.5e-5, 3e-5, 6e-5]),
        (Strength("k", power=-1), 4, [32, 16, 8, 4, 2]),
        (Strength("alpha", power=0.5), 4.0, [1.41, 2.0, 2.83, 4.0, 5.66]),
    ],
)
def test_a_strength_multiplies_the_ordinary_value_in_its_own_kind(scale: Strength, ordinary: float, values: list[float]) -> None:
    found = [scale.at(s, ordinary) for s in (0.125, 0.25, 0.5, 1, 2)]
    assert found == values
    assert {type(v) for v in found} == {type(ordinary)}


def test_the_ordinary_value_is_left_as_it_is_to_the_last_digit() -> None:
    assert Strength("lr").at(1, 0.000123456) == 0.000123456


# ---- rows


def test_a_method_is_a_row_for_each_strength_and_a_reference_is_one(suite: Suite, tmp_path: Path) -> None:
    run = bound(suite, tmp_path, strengths=(0.5, 1.0))
    assert list(run.methods) == ["none", "npo@0.5", "npo@1", "goldfish_retrain@0.5", "goldfish_retrain@1"]
    assert run.points[:2] == [OperatingPoint("npo@0.5", "npo", 0.5, "lr", 1e-4), OperatingPoint("npo@1", "npo", 1, "lr", 2e-4)]
    assert (run.methods["npo@0.5"][1].lr, run.methods["npo@0.5"][1].epochs) == (1e-4, 2)
    assert run.methods["goldfish_retrain@0.5"][1].k == 5
    assert bound(suite, tmp_path).points == []


def test_strengths_that_come_to_one_value_are_one_row_and_the_ordinary_run_wins(suite: Suite, tmp_path: Path) -> None:
    run = bound(suite, tmp_path, strengths=(0.95, 1.0, 1.05), methods={"none": {}, "goldfish_retrain": {}})
    assert list(run.methods) == ["none", "goldfish_retrain@1"]


def test_a_row_at_strength_1_shares_every_stage_with_an_ordinary_run_and_the_others_none(suite: Suite, tmp_path: Path) -> None:
    ordinary = {(s.kind, s.label): s.key for s in bound(suite, tmp_path).plan}
    curve = {(s.kind, s.label): s.key for s in bound(suite, tmp_path, strengths=(0.5, 1.0)).plan}
    for (kind, label), key in ordinary.items():
        if kind != "excerpts":  # which compare all models of a suite
            assert curve[kind, label.replace("npo", "npo@1").replace("retrain,", "retrain@1,").replace("twin@1", "twin")] == key
    others = {key for (_, label), key in curve.items() if "@0.5" in label}
    assert len(others) == 2 * len({kind for kind, label in ordinary if "npo" in label} | {"a second battery"})
    assert not others & set(ordinary.values())


def test_a_row_at_another_strength_is_an_ordinary_run_with_that_value(suite: Suite, tmp_path: Path) -> None:
    half = bound(suite, tmp_path, strengths=(0.5,)).model("npo@0.5", 0)
    given = suite.methods | {"npo": {"lr": 1e-4, "epochs": 2}}
    assert half.key == bound(suite, tmp_path, methods=given).model("npo", 0).key


# ---- what cannot be


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"strengths": (100.0,), "methods": {"none": {}, "goldfish_retrain": {}}}, "goldfish_retrain at strength 100: .* k of at least 2"),
        ({"strengths": (2.0,), "methods": {"none": {}, "sparse_finetuning": {"share": 0.9}}}, "sparse_finetuning at strength 2: .*share"),
        ({"strengths": (2.0,), "methods": {"none": {}, "task_vector": {"alpha": 0.0}}}, "alpha holds 0.0"),
    ],
)
def test_a_value_that_its_field_refuses_is_refused_before_work_begins(changes: dict, says: str, suite: Suite, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        bound(suite, tmp_path, **changes).validate()


@pytest.mark.parametrize("strengths", [(0.0,), (-1.0,), (float("nan"),), (1.0, 1.0)])
def test_strengths_are_numbers_above_0_each_once(strengths: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="strengths"):
        Suite(strengths=strengths)


def test_no_shipped_suite_but_curves_has_strengths_and_its_battery_is_cheap() -> None:
    assert {name for name in suite_names() if load_suite(name).strengths} == {"curves"}
    curves = load_suite("curves")
    assert curves.strengths == STRENGTHS
    assert set(curves.methods) == set(load_suite("methods").methods)
    assert load_suite("curves", ["strengths=[1, 4]"]).strengths == (1, 4)


# ---- what a key holds

BEFORE = """
from typing import ClassVar
from palimpsest.benchmark.method import Descent, Range, Space
class Mine(Descent):
    lr: float = 1.0
    search: ClassVar[Space] = {"lr": Range(1e-5, 3e-3)}
"""
AFTER = BEFORE.replace("Space\n", "Space, Strength\n").rstrip() + '\n    strength: ClassVar[Strength] = Strength("lr")\n'
READS = "\n    def loss(self):\n        return self.strength.field\n"


def test_a_declared_strength_changes_no_key_unless_the_method_reads_it(tmp_path: Path) -> None:
    def of(text: str) -> str:
        (tmp_path / "mine.py").write_text(text)
        sources._code.cache_clear()
        return code_hash([tmp_path / "mine.py"])

    assert of(BEFORE) == of(AFTER) == of(AFTER.replace('Strength("lr")', 'Strength("epochs", power=0.5)'))
    assert of(AFTER + READS) != of(BEFORE + READS)
    assert of(BEFORE) != of(BEFORE + "    strength: float = 1.0\n"), "a field of that name counts as every field does"
