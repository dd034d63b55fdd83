"""`palimpsest verify`: does a bundle hold what its author says?"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..common.archive import RefusedError
from ..common.errors import UserError
from ..common.strict import visible
from .progress import Display, hush
from .shared import DEFAULT_STORE, StorePath, console, escaped, whole_numbers

if TYPE_CHECKING:
    from ..submission.levels import Finding
    from ..submission.row import Reference

MARKS = {True: "[green]agreed[/]  ", False: "[red]differs[/] ", None: "not seen"}
DIFFERS, REFUSED = 1, 2


def verify(
    bundle: Annotated[Path, typer.Argument(help="A file that palimpsest submit wrote")],
    level: Annotated[str, typer.Option(help="schema, rescore, spotcheck or retrain; each includes those before")] = "rescore",
    suite: Annotated[str, typer.Option(help="A suite file of yours to hold the row against, in place of the track's")] = "",
    store: StorePath = DEFAULT_STORE,
    seed: Annotated[int | None, typer.Option(help="Of the slice that spotcheck draws; without it a new one, which is printed")] = None,
    slice_: Annotated[int, typer.Option("--slice", min=1, help="Questions that spotcheck asks again")] = 64,
    yes: Annotated[bool, typer.Option("--yes", help="Run the method's code without asking (retrain, audit)")] = False,
    seeds: Annotated[str, typer.Option(help="Of the suite, for what is trained again, e.g. 0 or 0,1; all without it")] = "",
    limit: Annotated[float, typer.Option(min=0.001, help="Minutes that the method's code may take")] = 60.0,
    scratch: Annotated[Path | None, typer.Option(help="A folder that keeps what is trained again, to continue there")] = None,
    memories: Annotated[Path | None, typer.Option(help="Passages that were never published: also run the fresh-memory audit")] = None,
    entry: Annotated[
        Path | None, typer.Option(help="Where all agrees, write the row's entry here, marked as verified (needs --by)")
    ] = None,
    by: Annotated[str, typer.Option(help="Who verified, as the entry will say")] = "",
) -> None:
    """Say what of a bundle agrees and what does not. Exits with 0 if all does, 1 if something differs, 2 if the file is refused."""
    if entry and (level == "schema" or not by):
        raise UserError(
            "--entry marks a row as verified: name yourself with --by, at --level rescore or above, where its numbers are recomputed."
        )
    with Display(console) as display:
        display.begin(f"reading {bundle}")
        from ..submission.bundle import opened, verified
        from ..submission.levels import Case, Options
        from ..submission.levels import verify as findings

        hush()
        try:
            with opened(bundle) as b:
                reference = _reference(b.info.track, b.info.suite, suite, marking=entry is not None)
                console.print(
                    f"{escaped(b.entry.name)}: method {escaped(b.entry.method)}, held against {_what(reference)}", highlight=False
                )
                options = Options(
                    store, seed, slice_, yes, whole_numbers(seeds), limit * 60, scratch, memories, partial(_asked, display), display.update
                )
                wrong, reached = _told(findings(Case(b, reference.suite, options, frozen=reference.frozen), level), display)
                marked = verified(b, level, by)
        except RefusedError as error:
            console.print(f"[bold red]Refused:[/] {escaped(visible(str(error)))}", highlight=False, soft_wrap=True)
            raise typer.Exit(REFUSED) from None
    if wrong:
        console.print(f"{wrong} {'thing differs' if wrong == 1 else 'things differ'} at the level {reached}.", highlight=False)
        raise typer.Exit(DIFFERS)
    if entry:
        entry.parent.mkdir(parents=True, exist_ok=True)
        entry.write_text(marked.as_json(), encoding="utf-8")
    console.print(f"Everything that the level {level} looks at agrees.", highlight=False)


def _reference(track: str, suite: str, own: str, marking: bool) -> Reference:
    """What a row is held against: the verifier's own suite, if named, else its track or shipped suite."""
    from ..submission.row import Reference, reference_of
    from ..suites.config import load_suite
    from ..suites.frozen import record_of

    if not own:
        return reference_of(track, suite)
    if marking and record_of(track):
        raise UserError(f"The track {track} is frozen: a row is marked as verified against its record, so without --suite.")
    return Reference(load_suite(own))


def _what(reference: Reference) -> str:
    """The suite that a row is held against, and how it is frozen."""
    return reference.suite.name + (f", frozen as {reference.frozen.sha256[:16]}" if reference.frozen else "")


def _told(found: Iterable[tuple[str, Finding]], display: Display) -> tuple[int, str]:
    """Print findings as they come, level by level; how many differ, and the last level that was reached."""
    wrong, reached = 0, ""
    for level, finding in found:
        if level != reached:
            console.print(f"[bold]{level}[/]")
            display.begin(f"level {level}")
        reached = level
        wrong += finding.agreed is False
        seen = f": {escaped(visible(finding.seen))}" if finding.seen else ""
        console.print(f"  {MARKS[finding.agreed]} {escaped(finding.what)}{seen}", highlight=False, soft_wrap=True)
    return wrong, reached


def _asked(display: Display, question: str) -> bool:
    """The answer of somebody who sits at the terminal; nobody there says no."""
    if not sys.stdin.isatty():
        return False
    display.bars.stop()
    try:
        return typer.confirm(question)
    finally:
        display.bars.start()
