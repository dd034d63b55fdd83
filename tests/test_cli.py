"""The command line: a mistake prints one message and no traceback, and the commands do what their help says."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
import typer

from palimpsest.benchmark import cli
from palimpsest.benchmark.commands import reporting
from palimpsest.benchmark.common.plugins import names
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.texts.memories import load_memories
from tests.command import Command, write_memories


def every_command(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = getattr(command, "commands", {})
    return [path, *(p for name, c in inner.items() for p in every_command(c, (*path, name)))]


COMMANDS = every_command(typer.main.get_command(cli.app))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "palimpsest")
def test_every_command_explains_itself(path: tuple[str, ...], palimpsest: Command) -> None:
    code, out, err = palimpsest(*path, "--help")
    assert (code, err) == (0, "")
    assert f"Usage: palimpsest {' '.join(path)}".strip() in out


def test_the_commands_of_the_readme_are_there() -> None:
    assert {("list",), ("plan",), ("run",), ("report",), ("explain",), ("attack",), ("memories", "check"), ("store", "gc")} <= set(COMMANDS)


# ---- listing


@pytest.mark.parametrize("kind", ["method", "attack"])
def test_list_names_every_plugin(kind: str, palimpsest: Command) -> None:
    code, out, _ = palimpsest("list", f"{kind}s")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines() if line and line[0] != " "} == {kind, *names(kind)}


def test_list_names_suites_and_models(palimpsest: Command) -> None:
    assert "quick" in palimpsest("list", "suites")[1]
    assert palimpsest("list", "models")[0] == 0
    assert "unchecked" in palimpsest("list", "sets")[1]


# ---- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "method"), "There is no list named 'method'. Did you mean 'methods'"),
        (("plan", "suite=pockt"), "There is no suite named 'pockt'. Did you mean 'pocket'"),
        (("plan", "suite=nowhere.yaml"), "There is no suite file 'nowhere.yaml'."),
        (("plan", "method=nop"), "There is no method named 'nop'. Did you mean 'npo'"),
        (("plan", "attack=paraphase"), "There is no attack named 'paraphase'. Did you mean 'paraphrase'"),
        (("run", "per_rol=3"), "There is no field named 'per_rol'. Did you mean 'per_role'"),
        (("run", "methods.npo.bta=3"), "method npo: There is no field named 'bta'"),
        (("run", "methods.npo=3"), "methods.npo=3: expected a mapping"),
        (("run", "per_role=many"), "per_role='many': expected int, got str"),
        (("run", "per_role"), "'per_role' is not an override"),
        (("plan", "method=./mine.py"), "There is no file 'mine.py'"),
        (("plan", "model=./nowhere"), "There is no model directory or GGUF file './nowhere'"),
        (("plan", "suite=smoke", "injection.occurrences=1000000000"), "use fewer occurrences, a higher density, or a larger corpus"),
        (("plan", "memories=nowhere.jsonl"), "There is no memories file 'nowhere.jsonl'"),
        (("report", "suite=pockt"), "There is no suite named 'pockt'"),
        (("attack", "./nowhere", "--memories", "m.jsonl"), "There is no model directory or GGUF file './nowhere'"),
        (("memories", "check", "nowhere.jsonl"), "There is no memories file 'nowhere.jsonl'"),
        (("store", "ls"), "There is no store at palimpsest-store; name one with --store"),
        (("store", "gc", "--store", "nowhere"), "There is no store at nowhere"),
        (("tune", "suite=quick"), "palimpsest tune needs one method=NAME, for example method=npo"),
        (("tune", "suite=smoke", "method=npo", "--write"), "The suite smoke belongs to no track, so there is nowhere to write to"),
        (("pretrain", "pockt"), "There is no model recipe named 'pockt'. Did you mean 'pocket'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_message_and_no_traceback(arguments: tuple[str, ...], message: str, palimpsest: Command) -> None:
    code, _, err = palimpsest(*arguments)
    assert code == 1
    assert err.startswith("Error: ")
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_an_unknown_command_or_option_is_a_usage_error(palimpsest: Command) -> None:
    assert palimpsest("nonsense")[0] == 2
    assert palimpsest("attack", "x")[0] == 2  # --memories is missing
    assert palimpsest("report", "--format", "pdf")[0] == 2


def test_an_interruption_says_that_the_same_command_continues(palimpsest: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**options: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    code, _, err = palimpsest("run")
    assert code == 130
    assert err == "Interrupted. What is finished is kept; the same command continues.\n"


def test_the_installed_command_fails_without_a_traceback(tmp_path: Path) -> None:
    code = "from palimpsest.benchmark.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "plan", "suite=pockt"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: There is no suite named 'pockt'.")
    assert done.stderr.count("\n") == 1


def test_a_run_names_the_page_first_and_each_other_file(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("some-reports") / "[quick]"
    reporting.say_where([folder / name for name in ("report.md", "report.html", "table.csv", "curves.svg")])
    page, beside = capsys.readouterr().out.splitlines()
    assert page == f"Report: {folder / 'report.html'}"
    assert beside.split(": ")[1].split(", ") == ["report.md", "table.csv", "curves.svg"]


def test_a_shell_learns_to_complete_commands(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    palimpsest = f"{sys.executable} -c 'from palimpsest.benchmark.cli import main; main()'"
    subprocess.run(["bash", "-c", f"{palimpsest} --install-completion && true"], env=environment, check=True, capture_output=True)
    script = (tmp_path / ".bash_completions" / "palimpsest.sh").read_text("utf-8")
    assert script.rstrip().endswith("palimpsest"), "it completes the command of this name"
    assert "_PALIMPSEST_COMPLETE=complete_bash" in script
    asked = {"_PALIMPSEST_COMPLETE": "complete_bash", "COMP_WORDS": "palimpsest rep", "COMP_CWORD": "1"}
    answer = subprocess.run(["bash", "-c", palimpsest], env=environment | asked, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["report", "reproduce"]


# ---- memories check, and what is written where


def test_memories_check_passes_the_shipped_file(palimpsest: Command) -> None:
    code, out, _ = palimpsest("memories", "check", "--no-corpus")
    assert code == 0
    assert "192 memories, 8 domains: per_role can be at most 64." in out
    assert "Nothing keeps this file from being run on pocket with a row of 160." in out
    assert "House style: 0 departures in 192 memories." in palimpsest("memories", "check", "--style", "--no-corpus")[1]


def test_memories_check_says_what_must_hold_and_the_house_style_on_request(palimpsest: Command, tmp_path: Path) -> None:
    good = load_memories()[:6]
    own = [replace(m, paraphrases=()) for m in good]
    code, out, err = palimpsest("memories", "check", write_memories(tmp_path / "m.jsonl", own))
    assert (code, err) == (0, "")
    assert "per_role can be at most 2" in out
    code, out, _ = palimpsest("memories", "check", write_memories(tmp_path / "m.jsonl", own), "--style", "--no-corpus")
    assert code == 0
    assert out.count("0 paraphrases, expected 4") == 6
    assert "House style: 6 departures" in out
    doubled = [*own, replace(own[0], id="again", text=own[0].text + " ")]
    code, out, err = palimpsest("memories", "check", write_memories(tmp_path / "m.jsonl", doubled))
    assert (code, err) == (1, "Error: 1 fault in 7 memories: such a file cannot be run.\n")
    assert f"Memories '{own[0].id}', 'again' are nearly the same text." in out


def test_a_report_that_cannot_be_written_says_so_before_work(palimpsest: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for command in (
        ("run", "suite=smoke", "--report", "file/x"),
        ("report", "suite=smoke", "--out", "file/x"),
        ("corpus", "freeze", "file/x"),
    ):
        code, _, err = palimpsest(*command)
        assert code == 1
        assert "cannot be written" in err


def test_a_shipped_model_is_not_overwritten_unasked(palimpsest: Command) -> None:
    code, _, err = palimpsest("pretrain", "pocket-small")
    assert code == 1
    assert "pocket-small is a shipped model and stays as it is" in err


def test_memories_check_takes_another_tokenizer_with_its_row(palimpsest: Command, tiny: Subject) -> None:
    code, out, err = palimpsest("memories", "check", "--no-corpus", "--tokenizer", f"{tiny.folder}:1000")
    assert (code, err) == (1, "Error: 192 faults in 192 memories: such a file cannot be run.\n")
    assert out.count("fewer than its row of 1000") == 192
    assert "expected MODEL_OR_DIRECTORY:ROW" in palimpsest("memories", "check", "--no-corpus", "--tokenizer", "pocket")[2]


# ---- the store


def test_store_ls_and_gc_over_an_empty_store(palimpsest: Command, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    assert palimpsest("store", "ls", "--store", "store")[0] == 0
