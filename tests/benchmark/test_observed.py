"""Nothing is injected: models that were made elsewhere are asked, with and without one that was retrained. On tiny models."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import Results
from palimpsest.benchmark.running import models
from palimpsest.benchmark.running.assemble import results
from palimpsest.benchmark.running.facts import facts_of
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.scoring.score import Score
from palimpsest.benchmark.suites.config import InjectionConfig, Suite, load_suite
from palimpsest.leaderboard import report
from palimpsest.leaderboard.report import write_report
from palimpsest.leaderboard.runs import read_report
from palimpsest.leaderboard.tables import main_table
from tests.observed import Elsewhere, made_elsewhere


@pytest.fixture(scope="module")
def elsewhere(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    return made_elsewhere(tmp_path_factory, tokenizer)


@pytest.fixture(scope="module")
def alone(observed: Run) -> Run:
    """The same without a retrained model."""
    bound = Run(replace(observed.suite, retrained=""), observed.store)
    bound.execute()
    return bound


def test_models_from_elsewhere_are_rows_beside_methods_that_run_here(observed: Run, observed_results: Results) -> None:
    assert {s.kind for s in observed.plan} == {"method", "battery", "attack", "checks", "quality", "published", "excerpts"}
    assert [s.label for s in observed.plan if s.kind == "method"] == ["npo, seed 0"]
    assert observed_results.methods == ("none", "npo", "theirs")
    score = Score(observed_results.records, observed_results.twin)
    assert score.exact("none").mean() == score.exact("none", "keep").mean() == 1
    assert score.exact("theirs").mean() == score.exact("twin").mean() < 0.5
    assert score.exact("none", "unseen").mean() < 0.5
    rows = {r.method: r for r in main_table(observed_results).rows}
    assert rows["theirs"].recovery.leaks[0].excess.value == 0
    assert rows["theirs"].utility.damage.value == 0
    assert rows["none"].recovery.leaks[0].excess.value > 10
    assert observed_results.facts["injection"].startswith("none")
    assert observed_results.facts["retrained"].startswith(observed.suite.retrained)
    assert not observed_results.warnings
    assert set(observed_results.excerpts[0].said) == {"none", "twin", "npo", "theirs"}
    assert "depth" in {v.quantity for v in observed_results.values}


def test_a_report_of_them_is_written_and_read_again(
    observed: Run, observed_results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "figures", lambda *_: [])
    files = write_report(observed_results, tmp_path, facts_of(observed))
    assert "theirs" in files[0].read_text()
    again, facts = read_report(tmp_path)
    assert again.methods == observed_results.methods
    assert facts.injection == {"none": observed.model("none", 0).key, "twin": observed.model("twin", 0).key}


def test_without_a_retrained_model_nothing_is_subtracted_and_the_page_says_so(alone: Run, tmp_path: Path) -> None:
    found = results(alone)
    assert found.twin == ""
    assert {"reference", "patching"} <= set(alone.who.not_applying)
    assert not {v.attack for v in found.values} & {"reference", "patching"}
    table = main_table(found)
    rows = {r.method: r for r in table.rows}
    assert rows["none"].utility.damage.value == 0, "damage is against the held model"
    assert math.isfinite(rows["npo"].utility.damage.value)
    leak = rows["none"].recovery.leaks[0]
    assert leak.excess.value == rows["none"].recovery.worst_length.value
    assert all(not cell.privleak for cell in rows["none"].further.membership)
    (warning,) = found.warnings
    assert warning.startswith("No retrained model was given. The null is of never-seen texts alone")
    for file in write_report(found, tmp_path, facts_of(alone))[:2]:
        assert "No retrained model was given" in file.read_text()
    assert read_report(tmp_path)[0].twin == ""


def test_with_a_null_of_unseen_texts_alone_there_are_thresholds_and_leak(alone: Run) -> None:
    found = results(alone)
    many = [replace(r, memory=f"{r.memory} {i}") for r in found.records if r.memory in _of(found, "none", "unseen") for i in range(90)]
    score = Score([*found.records, *many], "")
    assert score.calibrations["black-box"].possible
    assert score.leak("none", "black-box") == 1
    assert (score.recovered_pair("none", "black-box")["twin"] == 0).all()


def _of(found: Results, method: str, role: str) -> set[str]:
    return {r.memory for r in found.records if (r.method, r.role) == (method, role)}


def test_keys_hold_what_models_say_and_not_where_they_lie(observed: Run, alone: Run, elsewhere: Elsewhere, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(elsewhere.held, tmp_path / "copy"))
    moved = Run(replace(observed.suite, held=str(copy)), observed.store)
    assert [s.key for s in moved.plan] == [s.key for s in observed.plan]
    assert all(moved.store.done(s) for s in moved.plan)
    assert alone.model("npo", 0).key == observed.model("npo", 0).key, "what judges prompts trains nothing"
    other = Run(replace(observed.suite, held=str(elsewhere.retrained)), observed.store)
    changed = [s for s in other.plan if not other.store.done(s)]
    assert {"method", "battery", "attack"} <= {s.kind for s in changed}


def test_what_a_cpu_was_asked_is_not_done_on_a_gpu(observed: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [s for s in observed.plan if s.kind not in ("method", "attack")]
    assert {s.kind for s in asked} == {"battery", "checks", "quality", "published", "excerpts"}
    assert not any("device" in s.inputs for s in asked), "keys of a CPU are as they always were"
    monkeypatch.setattr(models, "device", lambda: torch.device("cuda", 0))
    there = Run(observed.suite, observed.store)
    assert len(there.plan) == len(observed.plan)
    assert not {s.key for s in there.plan} & {s.key for s in observed.plan}
    assert {s.inputs["device"] for s in there.plan} == {"cuda"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"injection": InjectionConfig(lr=1.0)}, "injection would change nothing"),
        ({"model": "pocket-small", "revision": "x"}, "model and revision would change nothing"),
        ({"seeds": (0, 1)}, "expected one where held is set"),
        ({"given": {"none": "x"}}, "stands for another model"),
        ({"given": {"a/b": "x"}}, "a plain word"),
        ({"held": "", "retrained": "x"}, "retrained is for models that nothing was injected into"),
    ],
)
def test_what_contradicts_itself_is_refused(elsewhere: Elsewhere, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(elsewhere.suite, **fields)


def test_methods_that_need_the_history_and_commands_that_need_an_injection_are_refused(observed: Run) -> None:
    with pytest.raises(UserError, match="retrain trains again as the held model was trained"):
        Run(replace(observed.suite, methods={"none": {}, "retrain": {}}), observed.store).validate()
    with pytest.raises(UserError, match="injects nothing"):
        observed.held(0)


def test_memories_without_roles_are_refused_since_roles_dealt_by_chance_would_call_unseen_what_was_met(
    observed: Run, tmp_path: Path
) -> None:
    lines = [{"id": f"q{i}", "domain": "d", "kind": "qa", "prompt": f"What is {i}?", "answer": f" The number {i}."} for i in range(9)]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match="'q0' and 8 more have no role"):
        Run(replace(observed.suite, memories=str(tmp_path / "own.jsonl")), observed.store).validate()


def test_a_model_with_another_tokenizer_is_refused_by_name(observed: Run, elsewhere: Elsewhere, tmp_path: Path) -> None:
    strange = Path(shutil.copytree(elsewhere.held, tmp_path / "strange"))
    other = AutoTokenizer.from_pretrained(strange)
    other.add_tokens(["Varnholt"])
    other.save_pretrained(strange)
    with pytest.raises(UserError, match=r"theirs \(.*strange\) has another tokenizer than .*retrained"):
        Run(replace(observed.suite, given={"theirs": str(strange)}), observed.store).validate()


def test_the_command_line_names_models(elsewhere: Elsewhere, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("methods: {none: }\nattacks: {prefix: }\nseeds: [0]\n")
    suite = load_suite(str(file), ["held=a/b@main", "given.theirs=c/d", "method=npo"])
    assert (suite.held, suite.given) == ("a/b@main", {"theirs": "c/d"})
    assert list(suite.methods) == ["none", "npo"]
    assert isinstance(suite, Suite)
