"""Writes what a study found: a page, tables as CSV, figures with their numbers, verdicts as JSON; and the one table of all verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..benchmark.common.fields import build
from .figures import Figure
from .report import environment
from .study_results import Found, StudyTable, Verdict


@dataclass(frozen=True)
class StudyFacts:
    """What a page says beside what was found."""

    name: str
    question: str
    paper: str
    address: str
    form: str
    command: str
    seconds: float  # that its stages took, by their manifests
    machine: str
    about: str = ""  # the docstring: what is measured and how
    commit: str = ""


def write_study(found: Found, facts: StudyFacts, folder: Path) -> list[Path]:
    """FOLDER/NAME.md, NAME-TABLE.csv, NAME-FIGURE.svg and .csv, NAME.json with the verdicts; existing files are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"{facts.name}.md": environment(html=False).get_template("study.md").render(found=found, facts=facts, shown=shown)}
    for table in found.tables:
        files[table_file(facts.name, table)] = _csv(table.rows)
    for figure in found.figures:
        files[f"{facts.name}-{figure.name}.svg"] = Figure(figure.name, figure.caption, figure.svg).file
        files[f"{facts.name}-{figure.name}.csv"] = _csv(figure.rows)
    told = {"facts": asdict(facts), "verdicts": [asdict(v) for v in found.verdicts]}
    files[f"{facts.name}.json"] = json.dumps(told, indent=1, sort_keys=True) + "\n"
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
    return [folder / name for name in files]


def overview(folder: Path) -> str:
    """The page of all verdicts, from the NAME.json files of a folder; JSON of another kind is left out."""
    found = [json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))]
    told = [t for t in found if isinstance(t, dict) and {"facts", "verdicts"} <= t.keys()]
    studies = [(build(StudyFacts, t["facts"], "facts"), [build(Verdict, v, "verdict") for v in t["verdicts"]]) for t in told]
    return environment(html=False).get_template("studies.md").render(studies=studies)


def shown(table: StudyTable) -> Iterable[list[str]]:
    """Cells as text, numbers to three digits."""
    for row in table.rows:
        yield [_text(row.get(name)) for name in table.columns]


def table_file(study: str, table: StudyTable) -> str:
    """The name of the CSV file of a table."""
    return f"{study}-{_word(table.title)}.csv"


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    return pd.DataFrame(list(rows)).to_csv(index=False, lineterminator="\n")


def _word(title: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())[:40]
