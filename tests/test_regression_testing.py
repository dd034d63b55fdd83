"""The page about regression tests runs: its files make a project whose test passes, and fails when the method gets worse."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from palimpsest.benchmark.common.types import HORIZON
from palimpsest.benchmark.models.subject import Subject
from palimpsest.leaderboard import report
from palimpsest.leaderboard.report import write_report
from palimpsest.leaderboard.side import read_baseline

from .command import Command
from .micro import write_corpus
from .synthetic import results

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "regression-testing.md"
METHOD = ROOT / "docs" / "add-a-method.md"


def files_of(page: Path) -> dict[str, str]:
    """The files that a page shows, by name."""
    return dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL))


FILES = files_of(PAGE)
# What a person does once, before the workflow: the first run, and its baseline.
BEFORE = [
    shlex.split(line)
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    if "--save-baseline" in block
    for line in block.splitlines()
]
NAME = "./forget.py:Forget"
PLUGIN = "palimpsest.leaderboard.pytest_plugin"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's files, and the report of a run in which the method forgets well."""
    monkeypatch.setattr(report, "figures", lambda *_: [])
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    run(tmp_path, 0)
    return tmp_path


def run(project: Path, back: int) -> None:
    """What `palimpsest run suite=smoke method=./forget.py:Forget` would leave; so many of eight memories come back whole."""
    seen: set[int] = set()

    def length(method: str, role: str, attack: str, draw: Any) -> int:
        if method != NAME or role != "forget":
            return HORIZON if role == "keep" or method == "none" else draw.randrange(4)
        seen.add(len(seen))
        return HORIZON if len(seen) <= back * 5 else draw.randrange(4)  # five questions a memory

    write_report(results(("none", NAME), (0,), 24, length), project / "palimpsest-report" / "smoke")


def alone(project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The project's own pytest in a process of its own, with our plug-in and no other."""
    command = [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", "test_regression.py", *options]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)


def session(project: Path, *options: str, file: str = "test_regression.py") -> tuple[int, str]:
    """The same in this process, which is quicker: the status, and what was printed."""
    words = ["-p", PLUGIN, "-p", "no:cacheprovider", "-rs", "-s", "--import-mode=importlib", "-c", str(project / "pytest.ini")]
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        patch.chdir(project)
        return int(pytest.main([*words, file, *options])), out.getvalue()


def test_the_example_passes_then_fails_with_the_table_when_the_method_gets_worse(project: Path) -> None:
    status, out = session(project)
    assert status == 1
    assert "There is no baseline" in out
    assert "--palimpsest-update" in out
    assert "was written anew" in session(project, "--palimpsest-update")[1]
    assert read_baseline(project / "palimpsest-baseline.json").methods == ("none", NAME)
    assert session(project)[0] == 0
    run(project, back=7)
    done = alone(project)
    assert done.returncode == 1
    assert "worse than" in done.stdout
    assert re.search(r"exact, points +0\.0 +87\.5 .* worse", done.stdout)
    assert "came back" in done.stdout
    assert "Traceback" not in done.stdout
    assert session(project, "--palimpsest-margin", "exact=99", "--palimpsest-margin", "tokens=64")[0] == 0


def test_a_run_that_cannot_be_compared_fails_with_one_sentence(project: Path) -> None:
    write_report(results(("none", NAME), (1,), 24), project / "other")
    status, out = session(project, "--palimpsest-baseline", "other")
    assert status == 1
    assert "These runs cannot be compared; they differ in no seed in common" in out


def test_a_run_in_the_test_itself_that_fails_shows_what_it_said(project: Path) -> None:
    (project / "test_its_own_run.py").write_text("def test_it(palimpsest_baseline):\n    palimpsest_baseline.run('suite=smoek')\n")
    status, out = session(project, file="test_its_own_run.py")
    assert status == 1
    assert "palimpsest run suite=smoek failed" in out
    assert "Did you mean 'smoke'" in out


def test_the_plug_in_imports_nothing_that_takes_time(tmp_path: Path) -> None:
    """pytest loads it in every session of every project on this machine."""
    code = f"import sys, pytest; before = set(sys.modules); import {PLUGIN}; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    loaded = {name for name in done.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}
    assert loaded <= {"palimpsest", "palimpsest.leaderboard", PLUGIN}


def test_the_plug_in_is_an_entry_point_of_the_package() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options.entry_points"]["pytest11"].split() == ["palimpsest", "=", PLUGIN]
    assert "palimpsest.leaderboard" in setup["options"]["packages"].split()


def test_the_workflow_runs_from_the_first_run_to_its_annotations(
    tiny: Subject, palimpsest: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commands as they stand, with the method of docs/add-a-method.md: only the suite is made small, and nothing is installed."""
    monkeypatch.setattr(report, "figures", lambda *_: [])
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    for name, text in (FILES | {"forget.py": files_of(METHOD)["forget.py"]}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / "texts").mkdir()
    corpus = write_corpus(tmp_path / "texts")
    small = [f"model={tiny.folder}", "per_role=2", f"corpus.source={corpus.source}", f"corpus.path={corpus.path}", "precision=fp32"]
    small += ["injection.occurrences=[2]", "injection.density=1", "injection.batch=4", "quality.documents=8"]
    small += ["quality.tasks=[palimpsest_bits_per_byte]", "attack=prefix", "excerpts=0"]
    said = ""
    for words in (*BEFORE, *(shlex.split(step["run"]) for step in steps())):
        if words[0] == "palimpsest":
            code, out, err = palimpsest(*words[1:], *(small if words[1] == "run" else ()))
            assert code == 0, err
            said += out
        elif words[0] == "pytest":
            code, out = session(tmp_path, file=words[1])
            assert code == 0, out
    assert [w[:2] for w in BEFORE] == [["palimpsest", "run"], ["palimpsest", "diff"]]
    assert "Baseline of smoke in palimpsest-baseline.json" in said
    assert "all readings are the same" in said
    assert (tmp_path / "summary.md").read_text("utf-8").startswith("## palimpsest diff: smoke")


def test_the_workflow_is_of_files_that_are_there() -> None:
    commands = [shlex.split(step["run"]) for step in steps()]
    assert [c[0] for c in commands] == ["pip", "palimpsest", "palimpsest", "pytest"]
    assert commands[-1][1] in FILES, "the test is a file of the page"
    assert commands[0][3].removeprefix("palimpsest/") == "constraints.txt"
    assert (ROOT / "constraints.txt").is_file()


def steps() -> list[dict[str, str]]:
    """The workflow's steps that run something."""
    flow = yaml.safe_load(FILES[".github/workflows/unlearning.yml"])
    return [step for job in flow["jobs"].values() for step in job["steps"] if "run" in step]
