"""A run that asks only survivors ends with the same recoveries as one that asks everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from palimpsest.benchmark.battery.shared_pass import arm
from palimpsest.benchmark.common.types import TWIN
from palimpsest.benchmark.running import who_is_asked
from palimpsest.benchmark.running.assemble import results as assemble
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.scoring import calibration
from palimpsest.benchmark.scoring.calibration import recovered
from palimpsest.benchmark.scoring.score import Score
from palimpsest.benchmark.suites.config import QualityConfig
from palimpsest.leaderboard.tables import main_table

ATTACKS: dict[str, dict[str, Any]] = {
    "prefix": {}, "shifted_window": {"stride": 16}, "formatting": {}, "quantise": {"variants": ["int4"]},
    "relearn": {"shares": [0.5], "steps": 3, "points": [2, 3], "lr": 1e-3},
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {"none": {}, "npo": {"epochs": 2, "lr": 2e-3}, "grad_diff": {"epochs": 2, "lr": 2e-3}}


@pytest.fixture(scope="module")
def runs(taught: Run) -> Iterator[dict[str, Run]]:
    """How it asks -> the finished run; all in one store, so that models are made once."""
    quality = QualityConfig(tasks=("palimpsest_bits_per_byte",), documents=4)
    suite = replace(taught.suite, attacks=ATTACKS, methods=METHODS, subset=4, excerpts=0, quality=quality)
    with pytest.MonkeyPatch.context() as patch:
        for module in (who_is_asked, calibration):
            patch.setattr(module, "FEWEST_NULL", 24)  # 8 memories per role: 24 values, which is what this model can give
        made = {ask: Run(replace(suite, ask=ask), taught.store) for ask in ("all", "subset", "worst")}
        for run in made.values():
            run.execute()
        yield made


@pytest.fixture(scope="module")
def scores(runs: dict[str, Run]) -> dict[str, Score]:
    return {ask: Score(made.records, TWIN, made.diagnostics) for ask, made in ((ask, assemble(run)) for ask, run in runs.items())}


def questions(score: Score, method: str) -> Counter[str]:
    """How many memories each attack was asked about."""
    return Counter(score.lengths(method).count().astype(int).to_dict())


def test_records_and_values_say_by_fields_how_a_model_was_changed(runs: dict[str, Run]) -> None:
    found = assemble(runs["all"])
    told = {(r.attack, r.dose, r.inner, r.variant) for r in found.records if r.inner}
    asked = [a.name for a in runs["all"].who.reasked]
    doses = {"unchanged": "as it is", "quantise": "int4", "relearn": "50%"}
    assert told == {(attack, dose, inner, f"{dose}/{inner}") for attack, dose in doses.items() for inner in asked}
    assert not any(r.dose for r in found.records if r.attack not in doses)
    points = {(v.quantity, v.dose, v.step) for v in found.values if v.step >= 0}
    assert points == {("matched", "", 2), ("matched", "", 3)}
    (trajectory,) = next(row for row in main_table(found).rows if row.method == "npo").further.trajectories
    assert (trajectory.name, list(trajectory.steps)) == ("relearn", [0, 2, 3])


def test_fewer_questions_are_asked_where_only_the_worst_case_is_wanted(scores: dict[str, Score]) -> None:
    asked = {ask: sum((questions(s, m) for m in METHODS if m != "none"), Counter()) for ask, s in scores.items()}
    everything = 8 * (len(METHODS) - 1)
    assert asked["all"]["quantise"] == everything
    assert asked["worst"]["quantise"] < asked["subset"]["quantise"] <= everything
    assert asked["worst"]["formatting"] < asked["all"]["formatting"]
    assert asked["worst"]["prefix"] == asked["all"]["prefix"], "the first tier is asked of all"


@pytest.mark.parametrize("ask", ["subset", "worst"])
def test_recoveries_are_equal_with_and_without_early_exit(ask: str, scores: dict[str, Score]) -> None:
    full, early = scores["all"], scores[ask]
    assert early.levels == full.levels == ("black-box", "weights")
    for access in full.levels:
        assert early.calibrations[access].possible
        assert early.calibrations[access].as_dict() == full.calibrations[access].as_dict()
        for method in METHODS:
            calls = [recovered(s.lengths(method), s.calibrations[access]) for s in (full, early)]
            assert calls[0].to_dict() == calls[1].to_dict(), (access, method)
            assert early.leak(method, access) == pytest.approx(full.leak(method, access), abs=0)


def test_some_memories_come_back_early_some_late_and_some_never(scores: dict[str, Score]) -> None:
    """Otherwise the equality above would say little."""
    score = scores["all"]
    first = {(m, i) for m in METHODS for i, hit in recovered(score.lengths(m)[["prefix"]], score.calibrations["black-box"]).items() if hit}
    ever = {(m, i) for m in METHODS for i, hit in recovered(score.lengths(m), score.calibrations["weights"]).items() if hit}
    assert 0 < len(first) < len(ever) < 8 * len(METHODS)


def test_per_attack_rates_are_of_memories_that_are_asked_whatever_came_before(runs: dict[str, Run]) -> None:
    def extra(ask: str, attack: str) -> set[bool]:
        return {
            r.extra for r in assemble(runs[ask]).records if r.attack == attack and r.method not in ("none", TWIN) and r.role == "forget"
        }

    assert extra("all", "quantise") == {False}
    assert extra("subset", "quantise") == {False, True}
    assert extra("worst", "quantise") == extra("worst", "formatting") == {True}
    assert extra("worst", "prefix") == extra("subset", "formatting") == {False}


def test_diagnostics_are_asked_of_the_subset_even_where_only_the_worst_case_is_wanted(runs: dict[str, Run]) -> None:
    found = assemble(runs["worst"])
    assert "unchanged" in found.diagnostics
    assert {(r.method, r.memory) for r in found.records if r.attack == "unchanged" and r.method == "npo"} == {
        ("npo", m.id) for m in runs["worst"].encoded(0) if m.role == "forget" and m.id in runs["worst"].who.fixed(0)
    }


def test_the_twin_is_asked_what_survivors_are_asked(runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a method would be asked more than what it is compared with."""
    (relearn,) = arm({"relearn": {}})

    def asked(method: str, role: str) -> int:
        return sum(m.role == role for m in runs["subset"].who.asked(runs["subset"].model(method, 0), relearn.attack))

    monkeypatch.setattr(who_is_asked, "FEWEST_NULL", 25)
    assert asked(TWIN, "forget") == asked("npo", "forget") == 4, "without thresholds there are no survivors"
    monkeypatch.setattr(who_is_asked, "FEWEST_NULL", 24)
    assert (asked(TWIN, "forget"), asked("npo", "forget"), asked("none", "forget")) == (8, 4, 4)
    assert asked(TWIN, "unseen") == asked("none", "unseen") == 4
