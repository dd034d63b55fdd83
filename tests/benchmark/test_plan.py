"""The plan of a suite: every stage once, what a change makes to do, and mistakes that are found before work begins."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.running.assemble import results
from palimpsest.benchmark.running.estimate import Estimates
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.suites.config import CorpusConfig, InjectionConfig, QualityConfig, Suite
from tests.benchmark.micro_run import STAGES, again

# ---- the plan


def test_the_plan_has_every_stage_once_and_each_after_what_it_reads(whole: Run) -> None:
    plan = again(whole).plan
    assert Counter(s.kind for s in plan) == STAGES
    assert len({s.key for s in plan}) == len(plan)
    place = {s.key: i for i, s in enumerate(plan)}
    read = [(s, key) for s in plan for key in (s.inputs.get("model"), s.inputs.get("held"), *s.inputs.get("models", {}).values())]
    assert all(place[key] < place[s.key] for s, key in read if key in place)
    assert sum(key in place for _, key in read) == 3 + 10 + 5 + 5 + 5 + 5


def test_one_more_seed_leaves_the_finished_stages_as_they_are(whole: Run) -> None:
    more = again(whole, seeds=(0, 1))
    done = [s for s in more.plan if whole.store.done(s)]
    assert Counter(s.kind for s in done) == STAGES
    assert len(more.plan) == 2 * len(done) - 1  # the quality of the base model is shared


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"name": "other", "doc": "x"}, STAGES),
        ({"attacks": {"prefix": {}}}, {"quality": 6, "held": 1, "twin": 1, "method": 3, "battery": 5, "checks": 5, "excerpts": 1}),
        ({"attacks": {"prefix": {"lengths": [8]}, "paraphrase": {}}}, STAGES | {"battery": 5}),
        ({"quality": QualityConfig(documents=7)}, {k: v for k, v in STAGES.items() if k != "quality"}),
        ({"methods": {"none": {}, "npo": {"epochs": 3}}}, {"quality": 3, "held": 1, "twin": 1, "battery": 4, "checks": 2}),
        ({"row": 150}, {"quality": 1}),
        ({"injection": InjectionConfig(occurrences=(3,))}, {"quality": 1}),
        ({"roles": "other"}, {"quality": 1}),
    ],
)
def test_a_change_makes_only_what_reads_it_to_do(change: dict[str, Any], left: dict[str, int], whole: Run) -> None:
    assert Counter(s.kind for s in again(whole, **change).plan if whole.store.done(s)) == left


def test_a_run_that_shows_no_texts_has_no_stage_of_them(whole: Run) -> None:
    run = again(whole, excerpts=0)
    assert Counter(s.kind for s in run.plan) == {k: v for k, v in STAGES.items() if k != "excerpts"}
    assert list(results(run).excerpts) == []


def test_running_again_does_nothing(whole: Run) -> None:
    finished: list[Any] = []
    run = again(whole)
    run.progress = lambda what, done, of: pytest.fail(f"worked on {what}")
    run.execute(finished.append)
    assert finished == []


def test_estimates_of_stages_alike_add_up_to_what_they_took(whole: Run) -> None:
    estimates = Estimates(again(whole))
    took: dict[str, list[tuple[float, float]]] = {}
    for stage in whole.plan:
        pair = whole.store.manifest(stage)["seconds"], estimates.seconds(stage)
        took.setdefault(stage.work().alike, []).append(pair)
    assert {"injection", "quality", "battery 0", "method npo"} < set(took)
    for pairs in took.values():
        assert sum(real for real, _ in pairs) == pytest.approx(sum(thought for _, thought in pairs), rel=1e-3)


def test_what_is_switched_off_changes_no_key(whole: Run) -> None:
    fields = whole.model("npo", 0).stage.inputs["fields"]
    assert "lr" in fields
    assert fields.keys().isdisjoint({"lora", "stop"})


# ---- mistakes that are known before work begins


@pytest.mark.parametrize("attacks", [{}, {"paraphrase": {}}, {"shifted_window": {}}])
def test_a_suite_that_never_asks_with_the_exact_opening_is_refused(attacks: dict[str, Any], whole: Run) -> None:
    """Exact, leak and collateral would be no numbers, and every p 1."""
    with pytest.raises(UserError, match=r"None of the attacks of suite micro .* asks with the exact opening"):
        again(whole, attacks=attacks).validate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": {"npo": {}}}, "methods must include none"),
        ({"methods": {"none": {}, "nop": {}}}, "no method named 'nop'"),
        ({"attacks": {"prefx": {}}}, "no attack named 'prefx'"),
        ({"attacks": {"prefix": {"length": 1}}}, "no field named 'length'"),
        ({"model": "./nowhere"}, "There is no model directory or GGUF file './nowhere'"),
        ({"per_role": 100}, "per_role=100 needs 300 memories"),
        ({"row": 400}, "fewer than its row of 400"),
        ({"injection": InjectionConfig(occurrences=(2000,))}, "use fewer occurrences, a higher density, or a larger corpus"),
        ({"corpus": CorpusConfig("text", "nowhere")}, "is not a folder"),
        ({"memories": "nowhere.jsonl"}, "There is no memories file"),
    ],
)
def test_a_mistake_is_found_before_any_stage_runs(change: dict[str, Any], message: str, suite: Suite, tmp_path: Path) -> None:
    run = Run(replace(suite, **change), Store(tmp_path))
    with pytest.raises(UserError) as error:
        run.execute(lambda stage: pytest.fail("a stage ran"))
    assert message in str(error.value)
