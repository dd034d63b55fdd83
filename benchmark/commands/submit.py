"""`palimpsest submit`: one file with all that a row was made of, for others to verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common.errors import UserError, unknown
from .interruption import interruption
from .progress import Display, duration, hush
from .shared import DEFAULT_STORE, Overrides, StorePath, console, escaped, estimated, named_suite

if TYPE_CHECKING:
    from ..submission.row import Reference, Row

RULES = ("cheap", "all", "none")


def submit(
    overrides: Overrides = None,
    name: Annotated[str, typer.Option(help="Of the entry: a plain word")] = "",
    paper: Annotated[str, typer.Option(help="Address of the paper")] = "",
    code: Annotated[str, typer.Option(help="Address of the code")] = "",
    tuned_on: Annotated[str, typer.Option(help="What its fields were chosen on")] = "",
    weights: Annotated[bool, typer.Option("--weights", help="Put the weights into the bundle")] = False,
    hub: Annotated[str, typer.Option(help="OWNER/NAME@REVISION of a hub repository with SEED/model.safetensors in it")] = "",
    curve: Annotated[str, typer.Option(help="A suite with strengths whose run of this method is finished: its operating curve")] = "",
    to: Annotated[Path | None, typer.Option(help="The bundle's file; NAME.zip without it")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be refused, and what is still to run")] = False,
    rules: Annotated[
        str, typer.Option(help="With --dry-run, rules that a method of your own is held to: cheap, all (minutes), none")
    ] = "cheap",
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Make a bundle of one row (method=NAME) whose run is finished; with --dry-run say before hours are spent what would be refused."""
    method, suite = _asked(overrides or [], rules)
    interruption.kept = lambda: "No bundle was written; finished stages are kept."
    with Display(console) as display:
        display.begin("loading libraries, corpus and model")
        from ..running.store import Store
        from ..submission.making import Said, broken_rules, curve_of, make, problems
        from ..submission.row import own_row
        from ..suites.config import load_suite

        hush()
        row, told = own_row(suite, method, Store(store))
        row.progress = display.update
        points = curve_of(load_suite(curve), row, method) if curve and not dry_run else ()
        reference = _reference(suite)
        record = reference.frozen.sha256 if reference.frozen else ""
        said = Said(name or told.name, paper, code, tuned_on, weights, hub, points, record)
        found = list(problems(row, told, said, reference))
        if dry_run and told.file and rules != "none":
            display.begin(f"the rules for methods ({rules})")
            found += broken_rules(row, method, rules == "cheap")
        _refuse(found, row, display, dry_run)
        if dry_run:
            return
        display.begin("writing the bundle")
        file = to or Path(f"{said.name}.zip")
        info, _ = make(row, told, said, file)
    console.print(f"{file}: {len(info.files)} files, {file.stat().st_size / 1e6:.1f} MB.", highlight=False)
    console.print(f"Look at it as others will: palimpsest verify {file} --level rescore", highlight=False, soft_wrap=True)


def _asked(overrides: list[str], rules: str) -> tuple[str, Any]:
    """The method and the suite that the arguments name."""
    methods = [item.removeprefix("method=") for item in overrides if item.startswith("method=")]
    if len(methods) != 1:
        raise UserError("palimpsest submit needs one method=NAME, for example method=npo.")
    if rules not in RULES:
        raise unknown("choice of rules", rules, RULES)
    return methods[0], named_suite([item for item in overrides if not item.startswith("method=")])


def _reference(suite: Any) -> Reference:
    """What the row is held against: the published track or suite, else the author's own suite."""
    from ..submission.row import Reference, reference_of
    from ..suites.config import suite_names

    if suite.track or suite.name in suite_names():
        return reference_of(suite.track, suite.name)
    console.print(f"The suite {suite.name} is your own: others need its file to verify this row (--suite).", highlight=False)
    return Reference(suite)


def _refuse(found: list[str], row: Row, display: Display, dry_run: bool) -> None:
    """Say every reason, and what is still to run; a `UserError` if there is a reason, or stages are missing for what is no dry run."""
    from ..submission.making import missing

    todo = missing(row)
    for problem in found:
        console.print(f"[red]refused[/] {escaped(problem)}", highlight=False, soft_wrap=True)
    if dry_run and todo:
        estimates = estimated(row, display)
        took = duration(sum(map(estimates.seconds, todo)))
        console.print(f"to run  {len(todo)} stages, about {took} here; first: {escaped(todo[0].label)}", highlight=False)
    if found:
        raise UserError(f"{len(found)} {'reason' if len(found) == 1 else 'reasons'} to refuse this row.")
    if dry_run:
        console.print("Nothing here would be refused.")
    elif todo:
        raise UserError(f"{len(todo)} of {len(row.plan)} stages are not done yet (first: {todo[0].label}); use palimpsest run.")
