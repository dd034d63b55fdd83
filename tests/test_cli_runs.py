"""The commands that compare runs and carry stages: what they print, and with which status they end."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from palimpsest.benchmark.cli import app
from palimpsest.benchmark.commands import data
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.models.fetchable import FETCHABLE
from palimpsest.benchmark.running import assemble
from palimpsest.benchmark.running.store import Stage, Store
from palimpsest.benchmark.suites.config import suite_names
from palimpsest.leaderboard import report
from palimpsest.leaderboard.report import write_report

from .synthetic import results, typical


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports of three runs: `old`, `worse` (strong gives back half), and one of another seed."""

    def half(method: str, role: str, attack: str, draw: random.Random) -> int:
        return 64 if method == "strong" and role == "forget" and draw.random() < 0.5 else typical(method, role, attack, draw)

    folder = tmp_path_factory.mktemp("reports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "figures", lambda *_: [])
        write_report(results(seeds=(0,), memories=48), folder / "old")
        write_report(results(seeds=(0,), memories=48, length=half), folder / "worse")
        write_report(results(seeds=(1,), memories=48), folder / "other")
    return folder


@pytest.fixture(autouse=True)
def here(reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reports)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def said(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_the_status_says_whether_something_is_worse_or_cannot_be_compared() -> None:
    assert said("diff", "old", "old").exit_code == 0
    worse = said("diff", "old", "worse")
    assert worse.exit_code == 1
    assert "Worse: strong tokens:black-box, strong exact." in worse.stdout
    assert said("diff", "old", "worse", "--method", "weak").exit_code == 0
    assert said("diff", "old", "worse", "--margin", "exact=99", "--margin", "tokens=64").exit_code == 0
    assert said("diff", "old", "old", "--as", "strong=weak").exit_code == 1
    for words in (["old", "other"], ["old", "nowhere"], ["old"], [], ["old", "old", "--as", "x"], ["old", "old", "--margin", "x=1"]):
        refused = said("diff", *words)
        assert refused.exit_code == 2, words
        assert refused.stderr.startswith("Error: ")
        assert refused.stderr.count("\n") == 1


def test_a_baseline_stands_for_its_report(tmp_path: Path) -> None:
    file = str(tmp_path / "new" / "b.json")
    assert "Baseline of made-up in" in said("diff", "old", "--save-baseline", file).stdout
    assert said("diff", file, "old").exit_code == 0
    assert said("diff", file, "worse").exit_code == 1
    assert said("diff", "old", "worse", "--save-baseline", file).exit_code == 2


def test_json_is_one_object_and_nothing_else() -> None:
    done = said("diff", "old", "worse", "--format", "json")
    assert json.loads(done.stdout)["exit"] == done.exit_code == 1


def test_github_gets_annotations_and_a_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    done = said("diff", "old", "worse", "--format", "github")
    assert [line for line in done.stdout.splitlines() if line.startswith("::error title=palimpsest%3A strong is worse::exact")]
    assert (tmp_path / "summary.md").read_text("utf-8").startswith("## palimpsest diff: made")
    refused = said("diff", "old", "other", "--format", "github")
    assert refused.stdout.startswith("::error title=palimpsest diff::These runs cannot be compared")


def test_all_shows_every_memory_that_changed() -> None:
    few, every = (said("diff", "old", "worse", *more).stdout.count("came back") for more in ([], ["--all"]))
    assert few == 11 < every


def test_the_power_of_a_suite_is_told_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    from palimpsest.leaderboard import power

    monkeypatch.setattr(power, "DRAWS", 20)
    monkeypatch.setattr(power, "TRIES", 3)
    out = said("diff", "--power", "smoke").stdout
    assert "smoke: 1 seed, 8 forget and 4 hidden keep memories a seed, 30 documents" in out
    assert re.search(r"exact +5\.0 +5\.0 +\+\d", out)


# ---- stages


def test_stages_are_carried_by_kind_and_told_with_a_digest(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for kind in ("held", "twin", "quality"):
        Store(here).ensure(Stage(kind, f"the {kind}", {"a": 1}, lambda folder: {"n": (folder / "it").write_text("x")}))
    file = str(tmp_path / "a.tar")
    out = said("store", "export", file, "--kinds", "held,twin", "--store", str(here)).stdout
    assert "2 stages" in out
    digest = re.search(r"--digest ([0-9a-f]{64})", out)
    assert digest
    done = said("store", "import", file, "--digest", digest[1], "--store", str(there))
    assert "2 stages brought into" in done.stdout
    assert "2 were there already" in " ".join(said("store", "import", file, "--store", str(there)).stdout.split())
    assert sorted(kind for kind, *_ in Store(there).entries()) == ["held", "twin"]
    for words, why in (
        (["export", file, "--store", str(here)], "is there already"),
        (["export", f"{file}2", "--kinds", "hold", "--store", str(here)], "no kind of stage named 'hold'"),
        (["export", f"{file}2", "--kinds", "method", "--store", str(here)], "no finished stage of what was asked for"),
        (["export", f"{file}2", "--store", str(tmp_path / "x")], "There is no store"),
        (["import", f"{file}2"], "There is no file"),
    ):
        assert isinstance(error := said("store", *words).exception, UserError)
        assert why in str(error)


def test_what_models_that_are_not_here_made_is_kept_until_suites_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, planned = Store(tmp_path), []

    def of(**inputs: str) -> Stage:
        return Stage("held" if "base" in inputs else "quality", "it", inputs, lambda folder: {"n": (folder / "it").write_text("x")})

    used, unused, theirs = of(base="known", seed="0"), of(base="known", seed="1"), of(base="smollm2's")
    every = [used, unused, theirs, of(model=theirs.key)]
    for stage in every:
        store.ensure(stage)
    run = SimpleNamespace(plan=[used], base=SimpleNamespace(hash="known"), places={})
    monkeypatch.setattr(data, "bound_run", lambda items, store: planned.extend(items) or run)
    monkeypatch.setitem(FETCHABLE, "smollm2", replace(FETCHABLE["smollm2"], wheel="never fetched"))
    untold = ["lume", "muse", "real", "real-methods", "real-small", "tofu", "wmdp"]
    out = said("store", "gc", "--delete", "--store", str(tmp_path)).stdout
    assert planned == [f"suite={name}" for name in suite_names() if name not in untold]
    assert "1 folders" in out
    assert f"Kept: 2 stages of models that no suite planned here begins with (not planned without their models: {', '.join(untold)})" in out
    assert {key for _, key, _, _ in store.entries()} == {s.key for s in every} - {unused.key}
    assert "Kept" not in said("store", "gc", "smoke", "--delete", "--store", str(tmp_path)).stdout
    assert [key for _, key, _, _ in store.entries()] == [used.key]


def test_what_was_made_on_another_kind_of_device_is_not_collected_and_is_named_where_it_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login node without a GPU plans other keys than the machines on which the stages were made."""
    store = Store(tmp_path)
    there = Stage("held", "inject, seed 0", {"base": "known"}, lambda f: {"device": "cuda (H100)", "n": (f / "it").write_text("x")})
    store.ensure(there)
    (begun := tmp_path / ".scratch" / "0123456789abcdef").mkdir(parents=True)
    run = SimpleNamespace(plan=[], base=SimpleNamespace(hash="known"), places={})
    monkeypatch.setattr(data, "bound_run", lambda items, store: run)
    for words in ((), ("smoke",)):
        out = said("store", "gc", *words, "--delete", "--store", str(tmp_path)).stdout
        assert "Kept: 2 stages that were made on another kind of device" in out
        assert store.done(there)
        assert begun.is_dir(), "hours of training that a job's limit cut off"
    here = replace(there, inputs={"base": "known", "device": "cpu"})
    missed: Any = SimpleNamespace(plan=[here], store=store, device_kind="cpu")
    with pytest.raises(UserError, match=r"not done yet .*perhaps of another suite, were made on cuda \(H100\): give the command"):
        assemble.results(missed)
    said("store", "gc", "smoke", "--delete", "--all-devices", "--store", str(tmp_path))
    assert not store.done(there)
    assert not begun.exists()
