"""Shows Results: the pages, the tables, the figures, and the records as files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..benchmark.common.errors import unknown
from ..benchmark.common.facts import RunFacts
from ..benchmark.common.types import Excerpt, Results, TrainingEvaluation, Value
from ..benchmark.scoring.score import Score
from .figures import Figure, figures
from .frame import as_frame
from .grids import grids
from .headline import dead_weight_rule, headline, remarks
from .operating_curves import budgets_frame, curve_grids, settings_frame
from .published_grid import published_grids
from .runs import RUN, write_run
from .tables import MainTable, main_table

Format = Literal["md", "html", "csv", "latex"]
FILES: dict[str, Format] = {"report.md": "md", "report.html": "html", "table.csv": "csv", "table.tex": "latex"}
TEMPLATES = Path(__file__).parent / "templates"
_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": "$-$",
    "–": "--",
    "≈": r"$\approx$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "±": r"$\pm$",
    "…": r"\dots{}",
    "*": r"$^\ast$",
    "[": "{[}",
    "]": "{]}",
}


@dataclass(frozen=True)
class Said:
    """What one model says, split at the first difference from the true text."""

    method: str
    agrees: str
    rest: str


def write_report(results: Results, folder: Path | str, facts: RunFacts | None = None) -> list[Path]:
    """Write report.md, report.html, table.csv, table.tex, the figures and what is behind them; existing files are replaced."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = main_table(results)
    drawn = figures(results, table)
    texts = {name: _rendered(results, table, format, drawn) for name, format in FILES.items()}
    texts |= {f"{figure.name}.svg": figure.file for figure in drawn}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    Score(results.records, results.twin, results.diagnostics).with_excess().to_parquet(folder / "records.parquet", index=False)
    pd.DataFrame([vars(v) for v in results.values], columns=[f.name for f in fields(Value)]).to_parquet(
        folder / "values.parquet", index=False
    )
    pd.DataFrame([vars(s) for s in results.evaluations], columns=[f.name for f in fields(TrainingEvaluation)]).to_parquet(
        folder / "evaluations.parquet", index=False
    )
    frames = {"curves": settings_frame(results, table), "budgets": budgets_frame(results, table)} if results.points else {}
    for name, frame in frames.items():
        frame.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
        frame.to_parquet(folder / f"{name}.parquet", index=False)
    if results.published:
        said = "".join(json.dumps(asdict(s), sort_keys=True) + "\n" for s in results.published)
        (folder / "published.jsonl").write_text(said, encoding="utf-8")
    quality = "".join(json.dumps(asdict(q), sort_keys=True) + "\n" for q in results.quality)
    (folder / "quality.jsonl").write_text(quality, encoding="utf-8")
    write_run(results, facts or RunFacts(), folder / RUN)
    tables = [f"{name}.{kind}" for name in frames for kind in ("csv", "parquet")]
    tables += ["published.jsonl"] if results.published else []
    files = (*texts, *tables, "records.parquet", "values.parquet", "evaluations.parquet", "quality.jsonl", RUN)
    return [folder / name for name in files]


def render(results: Results, format: Format) -> str:
    """The report as Markdown or HTML, or its table as CSV or LaTeX."""
    if format not in FILES.values():
        raise unknown("format", format, FILES.values())
    table = main_table(results)
    return _rendered(results, table, format, figures(results, table) if format == "html" else [])


def _rendered(results: Results, table: MainTable, format: Format, drawn: list[Figure]) -> str:
    if format == "csv":
        return as_frame(table).to_csv(index=False, lineterminator="\n")
    main, *others = grids(table)
    context: dict[str, Any] = {"grids": [main, *published_grids(results), *curve_grids(results, table), *others]}
    if format == "latex":
        return _tex_environment().get_template("table.tex").render(context)
    context |= {
        "suite": results.suite,
        "headline": headline(table),
        "warnings": results.warnings,
        "facts": list(results.facts.items()),
        "remarks": remarks(table.dead_weight),
        "dead_weight": dead_weight_rule(table.access, table.unit),
        "docs": [(row.method, row.doc) for row in table.rows if row.doc],
        "passages": [_passage(e, (*results.methods, results.twin)) for e in results.excerpts],
    }
    if format == "html":
        context |= {"style": (TEMPLATES / "style.css").read_text(), "figures": drawn}
    return environment(format == "html").get_template(f"report.{format}").render(context)


def _passage(excerpt: Excerpt, order: Iterable[str]) -> dict[str, Any]:
    names = [m for m in dict.fromkeys(("base", "none", *order, *excerpt.said)) if m in excerpt.said]
    said = [compared(m, excerpt.said[m], excerpt.truth) for m in names]
    return {
        "memory": excerpt.memory,
        "role": excerpt.role,
        "seed": excerpt.seed,
        "prompt": excerpt.prompt,
        "truth": excerpt.truth.strip(),
        "said": said,
    }


def compared(method: str, said: str, truth: str) -> Said:
    """A text split where it first differs from the true one; white space before either does not count."""
    said, truth = said.lstrip(), truth.lstrip()
    differences = (i for i, (a, b) in enumerate(zip(said, truth, strict=False)) if a != b)
    shared = next(differences, min(len(said), len(truth)))
    return Said(method, said[:shared], said[shared:])


@cache
def environment(html: bool) -> Environment:
    env = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=html, undefined=StrictUndefined, trim_blocks=True)
    env.filters["md"] = escape_markdown
    return env


@cache
def _tex_environment() -> Environment:
    # Braces and percent signs belong to LaTeX, so the template's own marks are others.
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        autoescape=False,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
    )
    env.filters["tex"] = escape_latex
    return env


def escape_markdown(text: str) -> str:
    """Text as it stands, on one line: nothing in it is read as Markdown, as HTML or as the end of a cell."""
    one_line = re.sub(r"\s+", " ", text).replace("&", "&amp;").replace("<", "&lt;").strip()
    return re.sub(r"([\\`*_{}\[\]|~#>$])", r"\\\1", one_line)


def escape_latex(text: str) -> str:
    """Text as it stands; nothing in it is read as a command."""
    return "".join(_TEX.get(character, character) for character in text)
