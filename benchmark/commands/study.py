"""`palimpsest study`: a published finding about memorisation, measured again."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from .interruption import interruption
from .progress import Display, duration, hush
from .shared import DEFAULT_STORE, StorePath, console, escaped

LONG = 20  # lines of a table, beyond which it is named and not printed
PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "studies"


def study(
    name: Annotated[str, typer.Argument(help="A study's name, or `list`: what each answers, what it costs and what is finished")],
    fields: Annotated[list[str] | None, typer.Argument(help="Fields that differ from the form's, e.g. seeds=[0]")] = None,
    form: Annotated[str, typer.Option(help="pocket is what docs/studies shows; fast takes seconds and proves nothing.")] = "pocket",
    store: StorePath = DEFAULT_STORE,
    out: Annotated[Path, typer.Option(help="Where the page, its tables and its figures go.")] = Path("palimpsest-report/studies"),
) -> None:
    """Measure a published finding again: its table, its figure, the published direction and whether this run agrees."""
    if name == "list":
        return _list(store)
    interruption.kept = lambda: "Finished stages are kept; the same command continues."
    with Display(console) as display:
        display.begin(f"{name}: loading libraries, corpus and model")
        lab = _lab(name, fields or [], form, store, display)
        stages = lab.stages
        todo = [s for s in stages if not lab.store.done(s)]
        display.say(f"{name}: {len(stages)} stages: {len(stages) - len(todo)} done, {len(todo)} to do.")

        def finished(stage: Any) -> None:
            display.say(f"{lab.store.manifest(stage)['seconds']:7.1f} s  {stage.label}")

        found = lab.execute(lambda stage: display.begin(stage.label), finished)
    command = " ".join(["palimpsest study", name, *(fields or []), *([f"--form {form}"] if form != "pocket" else [])])
    _show(found, lab, form, command, out)


def _lab(name: str, fields: list[str], form: str, store: Path, display: Display) -> Any:
    hush()
    from ..running.store import Store
    from ..study import lab
    from ..suites.config import given_fields

    return lab(name, given_fields("study", name, fields), Store(store), form, display.update)


def _show(found: Any, lab: Any, form: str, command: str, out: Path) -> None:
    from ...leaderboard.study_report import StudyFacts, overview, write_study
    from ..common.processes import machine
    from ..running.provenance import provenance

    table = Table(box=None, pad_edge=False)
    for column in ("statement", "published", "measured here", "verdict"):
        table.add_column(column, overflow="fold")
    for v in found.verdicts:
        table.add_row(escaped(v.claim), escaped(v.published), escaped(v.measured), v.says)
    console.print(table)
    _tables(found, lab.name, out)
    s = lab.study
    about = inspect.getdoc(type(s)) or ""
    facts = StudyFacts(lab.name, s.question, s.paper, s.address, form, command, lab.seconds, machine(), about, provenance()["commit"] or "")
    page, *others = write_study(found, facts, out)
    (out / "README.md").write_text(overview(out), "utf-8")
    console.print(f"Page: {escaped(str(page))}", highlight=False, soft_wrap=True)
    console.print(f"Beside it: {escaped(', '.join(f.name for f in others))}", highlight=False, soft_wrap=True)
    console.print(f"All verdicts of that folder: {escaped(str(out / 'README.md'))}", highlight=False, soft_wrap=True)


def _tables(found: Any, name: str, out: Path) -> None:
    """Short tables whole; of those that are long, or wider than the terminal, which file holds them."""
    from ...leaderboard.study_report import shown, table_file

    for told in found.tables:
        cells = list(shown(told))
        table = Table(box=None, pad_edge=False, title=escaped(told.title), title_justify="left", caption=escaped(told.caption) or None,
                      caption_justify="left")  # fmt: skip
        for i, column in enumerate(told.columns):
            widest = max(len(part) for part in (*column.split(), *(row[i] for row in cells)))
            table.add_column(escaped(column), min_width=widest, overflow="fold")
        wide = sum(column.min_width or 0 for column in table.columns) + len(table.columns) - 1
        if len(cells) > LONG or wide > console.width:
            file = escaped(str(out / table_file(name, told)))
            console.print(f"{escaped(told.title)}: {len(cells)} lines of {len(told.columns)} columns, in {file}", highlight=False)
            continue
        for row in cells:
            table.add_row(*map(escaped, row))
        console.print("", table, "", sep="\n", highlight=False)


def _list(store: Path) -> None:
    """What each study answers, what it cost where it was published, and what of it is finished in this store and took how long."""
    hush()
    from ..common.plugins import find, names
    from ..running.store import Store
    from ..study import lab

    table = Table(box=None, pad_edge=False)
    for column in ("study", "question", "after", "published run", "finished here", "took"):
        table.add_column(column, overflow="fold")
    with Display(console) as display:
        for name in names("study"):
            cls: Any = find("study", name).cls
            finished, took = "none", ""
            if store.is_dir():
                display.begin(f"{name}: which of its stages are finished")
                there = lab(name, {}, Store(store))
                stages = there.stages
                done = sum(there.store.done(s) for s in stages)
                finished, took = f"{done} of {len(stages)}", duration(there.seconds) if done else ""
            table.add_row(name, escaped(cls.question), escaped(cls.paper), _published(name), finished, took)
    console.print(table)


def _published(name: str) -> str:
    """What the run in docs/studies took and where; empty outside a checkout, and “not measured” where none is published."""
    file = PUBLISHED / f"{name}.json"
    if not PUBLISHED.is_dir():
        return ""
    if not file.is_file():
        return "not measured"
    facts = json.loads(file.read_text("utf-8"))["facts"]
    return escaped(f"{duration(facts['seconds'])} on {facts['machine']} ({facts['command']})")
