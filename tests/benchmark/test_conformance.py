"""`palimpsest check` tells good methods from broken ones, rule by rule, and `palimpsest new` writes files that pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from palimpsest.benchmark.attack import Tools
from palimpsest.benchmark.battery.shared_pass import Probes, arm, ask_all
from palimpsest.benchmark.cli import app
from palimpsest.benchmark.commands.new import begin
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.plugins import find, names
from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.conformance import methods as conformance_method
from palimpsest.benchmark.conformance import worker
from palimpsest.benchmark.conformance.attacks import Check
from palimpsest.benchmark.conformance.methods import SHARES, Trial, check_method, small
from palimpsest.benchmark.conformance.worker import Job, error_line, unlearn
from palimpsest.benchmark.method import History, UnlearningData
from palimpsest.benchmark.suites.config import InjectionConfig
from palimpsest.benchmark.texts.stream import Stream, injected
from tests.benchmark.broken_methods import BROKEN, HEAD, MEAN
from tests.conftest import Memorised
from tests.ranks import forks

RULES = [
    "strength", "finite", "forgets", "keeps", "leaves the held model alone", "deterministic", "resumable", "ZeRO-3", "two processes",
]  # fmt: skip
FAST = {"lr": 1e-3}  # the tiny model's weights are small


@pytest.fixture(scope="module")
def trial(memorised: Memorised) -> Trial:
    """The tiny model as what methods are tried on; ordinary text are passages that it never met."""
    tokens = np.random.default_rng(0).integers(1, 4096, 160 * 400)
    stream = Stream(tokens, injected(memorised.memories), InjectionConfig(occurrences=(1,), density=0.5, batch=6), seed=3)
    data = UnlearningData(memorised.forget, memorised.shown, stream.retain.row, seed=4, history=History(memorised.base, stream))
    forget = [m for m in memorised.memories if m.role == "forget"]
    return Trial(memorised.subject.folder, data, forget, [Row(m.row) for m in memorised.unseen])


@pytest.fixture(autouse=True)
def other_files() -> None:
    find.cache_clear()


def written(folder: Path, body: str) -> str:
    """The name of a broken method."""
    (folder / "broken.py").write_text(HEAD + body)
    return f"{folder / 'broken.py'}:Broken"


def until(rule: str, checks: Iterator[Check]) -> list[Check]:
    """The checks up to that of a rule; the later ones are not made."""
    out = []
    for check in checks:
        out.append(check)
        if check.name == rule:
            break
    return out


# ---- check


def test_the_starting_file_of_a_method_keeps_every_rule(trial: Trial, tmp_path: Path) -> None:
    file, cls = begin("method", "my_method", tmp_path)
    checks = list(check_method(f"{file}:{cls}", FAST, trial))
    assert [c.name for c in checks] == RULES
    assert [(c.name, c.seen) for c in checks if not c.kept] == []


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_breaks_its_rule_and_none_before(fault: str, trial: Trial, tmp_path: Path) -> None:
    rule, body = BROKEN[fault]
    checks = until(rule, check_method(written(tmp_path, body), {}, trial))
    assert [c.name for c in checks if not c.kept] == [rule], checks
    assert checks[-1].seen
    assert checks[-1].advice.endswith(".")


@pytest.mark.parametrize(
    ("declared", "seen"),
    [
        ('    strength = Strength("alfa")', "no field named 'alfa'"),
        ('    share: Share = 0.9\n    strength = Strength("share")', "share=2.7: expected a share"),
        ('    strength = Strength("weight_decay")', "weight_decay holds 0.0"),
        ('    strength = Strength("schedule")', "schedule holds 'constant'"),
        ("    strength: float = 2.0", "If it is a field of yours"),
    ],
)
def test_a_strength_that_no_curve_can_run_is_refused(declared: str, seen: str, trial: Trial, tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    body = "    def loss(self, model, forget, retain, reference):\n        return {}\n"
    file.write_text(f"{HEAD}{declared}\n\n{body}".replace("import IGNORED,", "import IGNORED, Share, Strength,"))
    (found,) = until("strength", check_method(f"{file}:Broken", {}, trial))
    assert not found.kept
    assert seen in found.seen


@pytest.mark.parametrize("name", names("method"))
def test_every_shipped_method_but_the_references_declares_a_strength_that_curves_can_run(name: str) -> None:
    found = conformance_method._strength(name, {})
    assert found.kept
    assert ("none declared" in found.seen) == (name in ("none", "retrain"))


def test_a_mean_over_this_processs_tokens_is_seen_on_two_processes_only(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = forks()  # they begin sooner than new ones, which the starting file of a method above has tried
    monkeypatch.setattr(worker, "multiprocessing", SimpleNamespace(get_context=lambda kind: context))
    checks = list(check_method(written(tmp_path, MEAN), {}, trial))
    assert [c.name for c in checks] == RULES
    assert [c.name for c in checks if not c.kept] == ["two processes"], checks


def test_what_is_not_trained_through_fit_is_not_asked_to_resume(trial: Trial) -> None:
    checks = list(check_method("none", {}, trial))
    assert [c.name for c in checks] == RULES
    assert [c.name for c in checks if not c.kept] == ["forgets"]
    assert [c.name for c in checks if "does not apply" in c.seen] == ["resumable", "ZeRO-3", "two processes"]


def test_the_cheap_rules_are_those_that_plain_runs_tell(trial: Trial) -> None:
    names = [c.name for c in check_method("none", {}, trial, cheap=True)]
    assert names == ["strength", "finite", "forgets", "keeps", "leaves the held model alone", "deterministic"]


def test_a_run_is_ended_in_its_middle_and_goes_on_from_what_was_saved(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = small(Job("grad_diff", FAST, trial.held, trial.data))
    whole = unlearn(job)[1]
    seen: list[list[int]] = []

    def watched(job: Job, resume: Path, progress=lambda *_: None):
        seen.append([])

        def show(what: str, done: int, of: int) -> None:
            seen[-1].append(done)
            progress(what, done, of)

        return unlearn(job, resume=resume, progress=show)

    monkeypatch.setattr(conformance_method, "unlearn", watched)
    done = conformance_method._interrupted(job, len(whole.steps), tmp_path / "resume")
    assert seen == [[1, 2, 3], [4]]
    assert all(torch.equal(w, done.weights[k]) for k, w in whole.weights.items())
    assert done.steps == whole.steps


def test_the_small_runs_have_uneven_work_and_the_methods_own_fields_otherwise(trial: Trial) -> None:
    job = small(Job("retrain", {}, trial.held, trial.data))
    assert job.data.history is not None
    assert job.data.history.stream.steps < 6
    job = small(Job("npo", {"epochs": 1, "beta": 0.5}, trial.held, trial.data))
    assert job.given == {"epochs": 1, "beta": 0.5, "batch": 3}
    lengths = [len(r.ids) for r in job.data.forget]
    assert len(set(lengths)) == len(SHARES) == 4
    assert len(lengths) % job.given["batch"] == 1  # a batch of one row: the second process gets none


def test_an_error_is_told_in_one_line_with_its_place() -> None:
    with pytest.raises(ValueError, match="two") as caught:
        raise ValueError("two\nlines")
    assert error_line(caught.value).startswith("ValueError: two (test_conformance.py, line ")
    assert error_line(UserError("do this")) == "do this"


@pytest.mark.parametrize("given", ["npo", "methods=npo", "method=", "method=nothing_like_it", "method=./missing.py:X"])
def test_what_cannot_be_checked_is_an_error_of_the_users(given: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", given, "--store", str(tmp_path / "store")])
    assert isinstance(result.exception, UserError)
    assert len(str(result.exception)) > 25


# ---- new


def test_the_starting_file_of_an_attack_asks_more_of_a_model_that_has_memorised(memorised: Memorised, tmp_path: Path) -> None:
    file, cls = begin("attack", "my_attack", tmp_path)
    armed = arm({f"{file}:{cls}": {}})
    asked = [m for m in memorised.memories if m.role == "forget"]

    def lengths(subject) -> dict[tuple[str, str], int]:
        out = ask_all(subject, Probes(Tools(memorised.base)), [(armed[0], asked)], "fp32")
        return {(a.memory, a.variant): a.matched for a in out.answers}

    mine, theirs = lengths(memorised.subject), lengths(memorised.base)
    assert {m for m, _ in mine} == {m.id for m in asked}
    assert {v for _, v in mine} == {"invited", "without1", "without2", "without4"}
    assert sum(mine.values()) > sum(theirs.values())


@pytest.mark.parametrize("kind", ["method", "attack"])
def test_the_command_writes_a_file_that_can_be_found_under_the_name_it_prints(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["new", kind, "my_idea"])
    assert result.exit_code == 0, result.output
    assert f"palimpsest check {kind}=my_idea.py:MyIdea" in result.output
    plugin = find(kind, "my_idea.py:MyIdea")
    assert plugin.make(plugin.defaults) == plugin.make({})
    assert "$" not in (tmp_path / "my_idea.py").read_text()


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("precious")
    with pytest.raises(UserError, match="stays as it is"):
        begin("method", "mine", tmp_path)
    assert (tmp_path / "mine.py").read_text() == "precious"


@pytest.mark.parametrize(
    ("kind", "name", "why"),
    [
        *[("method", name, "Python identifier") for name in ("", "2nd", "my-idea", "my idea", "../idea", "class", "_", "_1")],
        *[("method", name, "already") for name in ("npo", "NPO", names("method")[-1])],
        ("attack", "prefix", "already"),
        ("method", "term", "would hide"),
        ("attack", "probe", "would hide"),
    ],
)
def test_a_name_that_would_not_do_is_refused(kind: str, name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=why):
        begin(kind, name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        begin("method", "mine", tmp_path / "elsewhere")
