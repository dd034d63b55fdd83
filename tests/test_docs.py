"""The tutorials run: their files load as plug-ins, their checks pass, and every command in the docs can be parsed."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from palimpsest.benchmark.attack import Membership, Tools, Workshop
from palimpsest.benchmark.battery.one_attack import Task, attack_once
from palimpsest.benchmark.battery.shared_pass import Armed, Probes, arm, ask_all
from palimpsest.benchmark.cli import app
from palimpsest.benchmark.common.plugins import find
from palimpsest.benchmark.common.types import Cost, EncodedMemory, Excerpt, Memory, Quality, Record, Value
from palimpsest.benchmark.models.subject import Subject, open_subject
from palimpsest.benchmark.suites.config import load_suite
from palimpsest.benchmark.texts.memories import encode, load_memories
from tests.conftest import Memorised

ROOT = Path(__file__).resolve().parent.parent
METHOD, ATTACK, METRICS = "docs/add-a-method.md", "docs/add-an-attack.md", "docs/metrics.md"
PAGES = ["README.md", "configs/memories/README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str, str]]:
    """(language, file name or "", text) of every fenced block."""
    return BLOCK.findall((ROOT / page).read_text("utf-8"))


def commands() -> list[tuple[str, list[str]]]:
    """(page, words after `palimpsest`) of every command in a shell block."""
    lines = [(page, line) for page in PAGES for language, _, text in blocks(page) if language == "sh" for line in text.splitlines()]
    return [(page, shlex.split(line, comments=True)[1:]) for page, line in lines if line.startswith("palimpsest ")]


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages write, as the working directory."""
    for page in (METHOD, ATTACK, "docs/operating-curves.md"):
        for _, name, text in blocks(page):
            if name:
                (tmp_path / name).write_text(text, "utf-8")
    monkeypatch.chdir(tmp_path)
    find.cache_clear()  # the same relative name may have meant another file
    return tmp_path


def facts_for_flags(page: str) -> dict[str, Any]:
    """Execute the page's unnamed Python blocks, one after the other, and return what they define."""
    names: dict[str, Any] = {}
    for language, name, text in blocks(page):
        if language == "python" and not name:
            exec(compile(text, page, "exec"), names)
    return names


def test_the_method_tutorial_runs_and_its_loss_is_finite_and_can_be_descended(unpacked: Path) -> None:
    names = facts_for_flags(METHOD)
    assert names["method"].gamma == 0.5
    terms = names["terms"]
    assert set(terms) == {"forget", "retain"}
    sum(t.total * t.weight for t in terms.values()).backward()
    gradients = [p.grad for p in names["model"].parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)


def test_the_attack_tutorial_runs_and_the_battery_accepts_its_probes(unpacked: Path) -> None:
    names = facts_for_flags(ATTACK)
    assert names["probe"].cuts == (8, 16, 32)
    tools = Tools(open_subject("pocket"))
    memories = [encode(m, tools.tokenizer, 160, "forget") for m in load_memories()[::48]]
    armed = arm({"./mine.py:Mine": {}})
    written = Probes(tools).of(armed[0], memories)
    assert {p.memory for p in written} == {m.id for m in memories}
    assert {v for p in written for v in p.variants} == {"slips1", "slips2", "slips4"}
    assert all(p.prompt != m.row[: m.opening] for m in memories for p in written if p.memory == m.id)
    assert written == Probes(tools).of(armed[0], memories)


@pytest.mark.parametrize("name", ["surprise.py:Surprise", "greedy.py:Greedy", "noise.py:Noise"])
def test_the_attacks_of_the_other_bases_run_and_give_more_on_a_model_that_has_memorised(
    name: str, unpacked: Path, memorised: Memorised
) -> None:
    (armed,) = arm({f"./{name}": {}})
    everyone = [*memorised.memories, *memorised.unseen]
    mine, theirs = (total(armed, subject, everyone) for subject in (memorised.subject, memorised.base))
    assert mine > theirs


def total(armed: Armed, subject: Subject, everyone: list[EncodedMemory]) -> float:
    """The sum over the forget memories of what an attack makes of a model."""
    scored = [m for m in everyone if m.role == "forget"]
    tools, prompting = Tools(subject), arm({"prefix": {}})
    out = ask_all(subject, Probes(tools), [(prompting[0], scored)], "fp32", tokens=scored)
    if isinstance(armed.attack, Membership):
        return sum(armed.attack.score(m, out.readings[m.id], out.readings[m.id]) for m in scored)
    task = Task(armed, scored, everyone, Workshop(subject, tokens=out.readings, precision="fp32"), Probes(tools), prompting)
    attack_once(task, subject)
    assert {a.memory for a in task.answers} == {m.id for m in scored}
    return float(sum(a.matched for a in task.answers) + sum(f.value for f in task.findings))


def test_the_suite_files_of_the_tutorials_set_the_fields_of_a_plug_in_file(unpacked: Path) -> None:
    fields = load_suite("mine.yaml").methods["./forget.py:Forget"]
    assert find("method", "./forget.py:Forget").make(fields).epochs == 10
    fields = load_suite("slips.yaml").attacks["./mine.py:Mine"]
    assert find("attack", "./mine.py:Mine").make(fields).slips == (1, 2, 4, 8)


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda x: x if isinstance(x, str) else " ".join(x)[:60])
def test_every_command_in_the_docs_exists_with_these_options_and_overrides(unpacked: Path, page: str, words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    context = command.make_context("palimpsest", list(words))
    while hasattr(command, "get_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    given = context.params.get("overrides") or []
    suite = next((item.removeprefix("suite=") for item in given if item.startswith("suite=")), "quick")
    load_suite(suite, [item for item in given if not item.startswith("suite=")])


@pytest.mark.parametrize("schema", [Record, Value, Quality, Memory, Excerpt, Cost], ids=lambda cls: cls.__name__)
def test_every_field_of_a_schema_is_described(schema: type) -> None:
    text = (ROOT / ("configs/memories/README.md" if schema is Memory else METRICS)).read_text("utf-8")
    assert [f.name for f in dataclasses.fields(schema) if f"`{f.name}`" not in text] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file(page: str) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", (ROOT / page).read_text("utf-8"))
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []
