"""`palimpsest board`: rebuilds the tables and the static site from the entries of a leaderboard, or says that they are not up to date."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..common.errors import UserError
from .progress import Display, hush
from .shared import DEFAULT_STORE, StorePath, console

if TYPE_CHECKING:
    from ...leaderboard.entry import Entry
    from ..common.frozen import Frozen

ENTRIES = Path("leaderboard/entries")


def board(
    entries: Annotated[Path, typer.Option(help="Folder of entries, TRACK/NAME.json each.")] = ENTRIES,
    to: Annotated[Path | None, typer.Option(help="Folder of the site; without it, site/ beside the entries.")] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; exit with 1 where README.md, or the site once built, is not what they give."),
    ] = False,
    freeze: Annotated[
        str, typer.Option(help="A track to freeze as it is here, before its first row is published; nothing else is done.")
    ] = "",
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Rebuild README.md beside the entries, and a static site that opens without a server, from entries and records of tracks alone."""
    if freeze:
        _freeze(freeze, store)
        return
    from ...leaderboard.board.shelf import shelf
    from ...leaderboard.board.site import beside, differences, renew, site, write
    from ..suites.frozen import records

    home, folder = entries.parent, to or entries.parent / "site"
    with Display(console) as display:
        display.begin("reading the entries")
        found, frozen = shelf(entries), records()
        _refuse(found, frozen)
        display.begin(f"drawing the pages of {len(found)} entries")
        tables, files = beside(found, entries.name, frozen), site(found, frozen)
    if check and to is None and not folder.exists():
        files = {}  # the repository has none
    total = len(files) + len(tables)
    if check:
        wrong = [str(where / path) for where, of in ((home, tables), (folder, files)) for path in differences(of, where)]
        for path in wrong:
            _say(path)
        if wrong:
            raise UserError(f"{len(wrong)} of {total} files are not what the entries give; run palimpsest board, and look at the changes.")
        _say(f"{home / 'README.md'} and {folder if files else 'its figures'} are what {len(found)} entries give.")
        return
    changed = [*write(files, folder), *renew(tables, home)]
    _say(f"{len(found)} entries: {home / 'README.md'}, and {folder / 'index.html'} ({len(changed)} of {total} files changed).")


def _refuse(entries: Iterable[Entry], records: dict[str, Frozen]) -> None:
    """Rows that were made from something else than their frozen track are on no board."""
    from ..suites.frozen import refusals

    wrong = {
        f"{e.track}/{e.name}": why for e in entries if e.track in records for why in [[*refusals(records[e.track], e.frozen, e.made_from)]]
    }
    wrong = {name: why for name, why in wrong.items() if why}
    for name, why in wrong.items():
        _say(f"{name}: {'; '.join(why)}")
    if wrong:
        raise UserError(f"{len(wrong)} {'row is' if len(wrong) == 1 else 'rows are'} not made from what the track was frozen with.")


def _freeze(track: str, store: Path) -> None:
    with Display(console) as display:
        display.begin("loading libraries, corpus and model")
        from ..submission.freezing import record_from
        from ..suites.frozen import freeze, record_of

        hush()
        before, record = record_of(track), freeze(record_from(track, store))
    done = "is frozen, from the same as here" if before else "is frozen now: commit its record"
    _say(f"The track {track} {done}. {record.date}, commit {record.commit[:10]}, SHA-256 {record.sha256}")


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
