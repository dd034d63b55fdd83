"""Shows Results: the pages, the tables, the table on the terminal, and the records as files."""

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
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..benchmark.common.errors import unknown
from ..benchmark.common.types import HELD, Excerpt, Results, TrainingEvaluation, Value
from ..benchmark.scoring.score import LEARNT, Score
from .cells import Cell, number
from .frame import as_frame
from .grids import grids, main_caption, main_columns
from .tables import MainTable, main_table

Format = Literal["md", "html", "csv", "latex"]
FILES: dict[str, Format] = {"report.md": "md", "report.html": "html", "table.csv": "csv", "table.tex": "latex"}
TEMPLATES = Path(__file__).parent / "templates"
NARROW = 120  # columns that the terminal table must fit
_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "−": "$-$", "–": "--",
    "≈": r"$\approx$", "†": r"\dag{}", "±": r"$\pm$", "…": r"\dots{}", "*": r"$^\ast$", "[": "{[}", "]": "{]}",
}  # fmt: skip


@dataclass(frozen=True)
class Said:
    """What one model says, split at the first difference from the true text."""

    method: str
    agrees: str
    rest: str


def write_report(results: Results, folder: Path | str) -> list[Path]:
    """Write report.md, report.html, table.csv, table.tex and the records behind them; existing files are replaced."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = main_table(results)
    for name, format in FILES.items():
        (folder / name).write_text(_rendered(results, table, format), encoding="utf-8")
    Score(results.records, results.twin, results.diagnostics).with_excess().to_parquet(folder / "records.parquet", index=False)
    pd.DataFrame([vars(v) for v in results.values], columns=[f.name for f in fields(Value)]).to_parquet(
        folder / "values.parquet", index=False
    )
    pd.DataFrame([vars(s) for s in results.evaluations], columns=[f.name for f in fields(TrainingEvaluation)]).to_parquet(
        folder / "evaluations.parquet", index=False
    )
    quality = "".join(json.dumps(asdict(q), sort_keys=True) + "\n" for q in results.quality)
    (folder / "quality.jsonl").write_text(quality, encoding="utf-8")
    return [folder / name for name in (*FILES, "records.parquet", "values.parquet", "evaluations.parquet", "quality.jsonl")]


def render(results: Results, format: Format) -> str:
    """The report as Markdown or HTML, or its table as CSV or LaTeX."""
    if format not in FILES.values():
        raise unknown("format", format, FILES.values())
    return _rendered(results, main_table(results), format)


def _rendered(results: Results, table: MainTable, format: Format) -> str:
    if format == "csv":
        return as_frame(table).to_csv(index=False, lineterminator="\n")
    context: dict[str, Any] = {"grids": grids(table)}
    if format == "latex":
        return _tex_environment().get_template("table.tex").render(context)
    context |= {
        "suite": results.suite,
        "headline": headline(table),
        "warnings": results.warnings,
        "facts": list(results.facts.items()),
        "docs": [(row.method, row.doc) for row in table.rows if row.doc],
        "passages": [_passage(e, (*results.methods, results.twin)) for e in results.excerpts],
    }
    if format == "html":
        context |= {"style": (TEMPLATES / "style.css").read_text(), "figures": _figures(results, table)}
    return _environment(format == "html").get_template(f"report.{format}").render(context)


def headline(table: MainTable) -> str:
    """One sentence: who forgets best, with the interval, and who cannot be told apart from it; or why nobody can be named."""
    if not table.learnt:
        return nothing_learnt(table)
    best = next((row for row in table.rows if row.standing == "best"), None)
    if best is None:
        return "No method of this suite kept its quality and could be ranked."
    x = table.ranked(best).scaled(100 if table.calibrated else 1)
    what = f"leaks {number(x.value)}%" if table.calibrated else f"reads {number(x.value)} tokens further than the twin"
    tied = [row.method for row in table.rows if row.standing == "tied"]
    others = f" Not to be told apart from it: {', '.join(tied)}." if tied else ""
    held = f"Among the methods that kept their quality, {best.method} holds back best: it {what}"
    return f"{held} [{number(x.low)}, {number(x.high)}] under {table.access} attacks.{others}"


def nothing_learnt(table: MainTable) -> str:
    """What is said in place of a winner where the held model had little to forget."""
    held = next(row for row in table.rows if row.method == HELD)
    return (
        f"Nothing was learnt: after injection the exact opening brings back {number(100 * held.exact.value)}% of the forget memories "
        f"(at least {100 * LEARNT:.0f}% are needed), so no method can be said to have forgotten and none is named best. Inject more often "
        "(injection.occurrences) or with a higher learning rate (injection.lr)."
    )


def _figures(results: Results, table: MainTable) -> list[dict[str, str]]:
    from . import plots  # matplotlib takes half a second, and the terminal table does not need it

    quality = (
        "What forgetting costs against what still leaks, with 95% intervals; the lower left is best. Diamonds are references; "
        "grey dots have collapsed; shaded is the region of collapse."
    )
    curves = (
        "Share of forget memories of which at least x tokens come back, by attack (where there are many, by access level). "
        "Grey: the twin under its best attack."
    )
    found = [(plots.quality_figure(table), quality), (plots.curves_figure(results, table), curves)]
    for attack, svg in plots.prompt_length_figures(results, table).items():
        found.append((svg, f"The same for {attack}, by the length of the prompt in tokens. Grey: the twin."))
    training = (
        "What methods with early stopping measured in training, a line per seed: the share of forget memories that the exact opening "
        "brought back whole, and the loss on held-out text in nats per token. A dot is the last evaluation."
    )
    found.append((plots.training_figure(results), training))
    return [{"svg": svg, "caption": caption} for svg, caption in found if svg]


def _passage(excerpt: Excerpt, order: Iterable[str]) -> dict[str, Any]:
    names = [m for m in dict.fromkeys(("base", "none", *order, *excerpt.said)) if m in excerpt.said]
    said = [_compared(m, excerpt.said[m], excerpt.truth) for m in names]
    return {
        "memory": excerpt.memory, "role": excerpt.role, "seed": excerpt.seed,
        "prompt": excerpt.prompt, "truth": excerpt.truth.strip(), "said": said,
    }  # fmt: skip


def _compared(method: str, said: str, truth: str) -> Said:
    said, truth = said.lstrip(), truth.lstrip()
    differences = (i for i, (a, b) in enumerate(zip(said, truth, strict=False)) if a != b)
    shared = next(differences, min(len(said), len(truth)))
    return Said(method, said[:shared], said[shared:])


@cache
def _environment(html: bool) -> Environment:
    env = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=html, undefined=StrictUndefined, trim_blocks=True)
    env.filters["md"] = escape_markdown
    return env


@cache
def _tex_environment() -> Environment:
    # Braces and percent signs belong to LaTeX, so the template's own marks are others.
    env = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, autoescape=False,
        block_start_string="<%", block_end_string="%>", variable_start_string="<<", variable_end_string=">>",
    )  # fmt: skip
    env.filters["tex"] = escape_latex
    return env


def escape_markdown(text: str) -> str:
    """Text as it stands, on one line: nothing in it is read as Markdown, as HTML or as the end of a cell."""
    one_line = re.sub(r"\s+", " ", text).replace("&", "&amp;").replace("<", "&lt;").strip()
    return re.sub(r"([\\`*_{}\[\]|~#>$])", r"\\\1", one_line)


def escape_latex(text: str) -> str:
    """Text as it stands; nothing in it is read as a command."""
    return "".join(_TEX.get(character, character) for character in text)


def print_table(results: Results, console: Console) -> None:
    """Print the main table, at most 120 columns wide, with its explanation and the run's warnings below."""
    table = main_table(results)
    columns = main_columns(table, seeds=False)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, title=Text(results.suite), title_justify="left")
    for title in columns:
        shown.add_column(title, justify="left" if title == "Method" else "right", no_wrap=True, min_width=16 if title == "Method" else None)
    for row in table.rows:
        style = "bold" if row.standing else "dim" if row.collapsed or row.reference else ""
        shown.add_row(*(_rich_cell(read(row)) for read in columns.values()), style=style)
    width = min(console.width, NARROW)
    if not table.learnt:
        console.print(Text(nothing_learnt(table), style="yellow"), width=width)
    console.print(shown, width=width)
    console.print(Text(main_caption(table), style="dim"), width=width)
    for warning in results.warnings:
        console.print(Text(f"Warning: {warning}", style="yellow"), width=width)


def _rich_cell(cell: Cell) -> Text:
    return Text.assemble(cell.text, (f"\n{cell.interval}" if cell.interval else "", "dim not bold"))
