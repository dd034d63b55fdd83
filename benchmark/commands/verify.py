"""`palimpsest verify`: does a bundle hold what its author says?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common.archive import RefusedError
from .progress import Display, hush
from .shared import DEFAULT_STORE, StorePath, console, escaped

MARKS = {True: "[green]agreed[/]  ", False: "[red]differs[/] ", None: "not seen"}
DIFFERS, REFUSED = 1, 2


def verify(
    bundle: Annotated[Path, typer.Argument(help="A file that palimpsest submit wrote")],
    level: Annotated[str, typer.Option(help="schema, rescore, spotcheck or retrain; each includes those before")] = "rescore",
    suite: Annotated[str, typer.Option(help="A suite file of yours to hold the row against, in place of the track's")] = "",
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Say what of a bundle agrees and what does not. Exits with 0 if all does, 1 if something differs, 2 if the file is refused."""
    with Display(console) as display:
        display.begin(f"reading {bundle}")
        from ..submission.bundle import opened
        from ..submission.levels import Case, Options
        from ..submission.levels import verify as findings
        from ..submission.row import reference_of
        from ..suites.config import load_suite

        hush()
        wrong, reached = 0, ""
        try:
            with opened(bundle) as b:
                reference = load_suite(suite) if suite else reference_of(b.info.track, b.info.suite)
                console.print(f"{escaped(b.entry.name)}: method {escaped(b.entry.method)}, held against {reference.name}", highlight=False)
                for at, found in findings(Case(b, reference, Options(store)), level):
                    if at != reached:
                        console.print(f"[bold]{at}[/]")
                        display.begin(f"level {at}")
                    reached = at
                    wrong += found.agreed is False
                    seen = f": {escaped(found.seen)}" if found.seen else ""
                    console.print(f"  {MARKS[found.agreed]} {escaped(found.what)}{seen}", highlight=False, soft_wrap=True)
        except RefusedError as error:
            console.print(f"[bold red]Refused:[/] {escaped(str(error))}", highlight=False, soft_wrap=True)
            raise typer.Exit(REFUSED) from None
    if wrong:
        console.print(f"{wrong} {'thing differs' if wrong == 1 else 'things differ'} at the level {reached}.", highlight=False)
        raise typer.Exit(DIFFERS)
    console.print(f"Everything that the level {level} looks at agrees.", highlight=False)
