"""`palimpsest diff`: is a run no worse than another?"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..common.errors import UserError
from .shared import console, escaped

NOT_COMPARABLE = 2


class Format(StrEnum):
    """How a comparison is said."""

    text = "text"
    json = "json"
    github = "github"


def diff(
    old: Annotated[Path | None, typer.Argument(help="A report folder, or a baseline that --save-baseline wrote")] = None,
    new: Annotated[Path | None, typer.Argument(help="The same, of the run that should be no worse")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Compare only this method, repeatable; all but none and retrain without it")
    ] = None,
    renamed: Annotated[list[str] | None, typer.Option("--as", help="OLDNAME=NEWNAME: compare two methods, repeatable")] = None,
    margin: Annotated[
        list[str] | None, typer.Option(help="measure=number, repeatable: leak, tokens, exact, damage, collateral, cost; or leak:weights=10")
    ] = None,
    format: Annotated[Format, typer.Option(help="json prints one object; github annotates, and writes the step's summary")] = Format.text,
    every: Annotated[bool, typer.Option("--all", help="Show every memory that changed")] = False,
    save_baseline: Annotated[Path | None, typer.Option(help="Write what a comparison reads of the one run given to this file")] = None,
    power: Annotated[str | None, typer.Option(help="A suite: how large must a change be for a run of it to show it?")] = None,
) -> None:
    """Compare two runs, memory by memory. Exits with 0: nothing is significantly worse, 1: something is, 2: they cannot be compared."""
    try:
        code = _diff(old, new, method or [], renamed or [], margin or [], format, None if every else 10, save_baseline, power)
    except UserError as error:
        if format is Format.github:
            typer.echo(f"::error title=palimpsest diff::{str(error).replace('%', '%25')}".replace("\n", "%0A"))
        Console(stderr=True).print(f"[bold red]Error:[/] {escaped(str(error))}", highlight=False, soft_wrap=True)
        code = NOT_COMPARABLE
    raise typer.Exit(code)


def _diff(
    old: Path | None,
    new: Path | None,
    methods: list[str],
    renamed: list[str],
    margin: list[str],
    format: Format,
    limit: int | None,
    baseline: Path | None,
    power: str | None,
) -> int:
    from ...leaderboard.diff import compare, margins_from
    from ...leaderboard.diff_text import as_json, print_diff, summary, workflow_commands
    from ...leaderboard.side import side

    margins = margins_from(margin)
    if power:
        return _power(power, margins)
    if baseline:
        if not old or new:
            raise UserError("--save-baseline needs one run: palimpsest diff REPORT --save-baseline FILE.")
        return _save(old, baseline)
    if not old or not new:
        raise UserError("palimpsest diff needs two runs: OLD and NEW, each a report folder or a baseline file.")
    found = compare(side(old), side(new), methods, names_from(renamed), margins)
    if format is Format.json:
        typer.echo(as_json(found))
        return found.exit
    print_diff(found, console, limit)
    if format is Format.github:
        for line in workflow_commands(found):
            typer.echo(line)
        if file := os.environ.get("GITHUB_STEP_SUMMARY"):
            with Path(file).open("a", encoding="utf-8") as out:
                out.write(summary(found, limit))
    return found.exit


def names_from(given: list[str]) -> dict[str, str]:
    """OLDNAME=NEWNAME as a mapping."""
    pairs = [item.partition("=") for item in given]
    if wrong := [item for item, (a, _, b) in zip(given, pairs, strict=True) if not (a and b)]:
        raise UserError(f"--as {wrong[0]!r}: expected OLDNAME=NEWNAME, for example npo=./mine.py:Mine.")
    return {a: b for a, _, b in pairs}


def _save(run: Path, file: Path) -> int:
    from ...leaderboard.side import side, write_baseline
    from ..common.paths import writable

    found = side(run)
    writable(file)
    write_baseline(found, file)
    console.print(
        f"Baseline of {escaped(found.suite)} in {escaped(str(file))}: {file.stat().st_size / 1e3:.0f} kB.", highlight=False, soft_wrap=True
    )
    return 0


def _power(suite: str, margins: dict[str, float]) -> int:
    from ...leaderboard.power import Size, print_power
    from ..suites.config import load_suite

    found = load_suite(suite)
    size = Size(len(found.seeds), found.per_role, found.per_role // 2, found.quality.documents or 0)  # half of the keep memories is shown
    print_power(found.name, size, margins, console)
    return 0
