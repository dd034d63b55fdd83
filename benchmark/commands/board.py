"""`palimpsest board`: rebuilds the tables and the static site from the entries of a leaderboard, or says that they are not up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common.errors import UserError
from .progress import Display
from .shared import console

ENTRIES = Path("leaderboard/entries")


def board(
    entries: Annotated[Path, typer.Option(help="Folder of entries, TRACK/NAME.json each.")] = ENTRIES,
    to: Annotated[Path | None, typer.Option(help="Folder of the site; without it, site/ beside the entries.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 where README.md or the site is not what the entries give.")
    ] = False,
) -> None:
    """Rebuild README.md beside the entries, and a static site that opens without a server, from the entries alone."""
    from ...leaderboard.board.shelf import shelf
    from ...leaderboard.board.site import differences, readme, says, site, write, write_text

    page, folder = entries.parent / "README.md", to or entries.parent / "site"
    with Display(console) as display:
        display.begin("reading the entries")
        found = shelf(entries)
        display.begin(f"drawing the pages of {len(found)} entries")
        text, files = readme(found, entries.name), site(found)
    if check:
        wrong = [str(page)] * (not says(page, text)) + [str(folder / path) for path in differences(files, folder)]
        for path in wrong:
            console.print(path, markup=False, highlight=False, soft_wrap=True)
        if wrong:
            raise UserError(
                f"{len(wrong)} of {len(files) + 1} files are not what the entries give; run palimpsest board, and look at the changes."
            )
        console.print(f"{page} and {folder} are what {len(found)} entries give.", markup=False, highlight=False, soft_wrap=True)
        return
    changed = write(files, folder)
    if not says(page, text):
        write_text(page, text)
    console.print(
        f"{len(found)} entries: {page}, and {folder / 'index.html'} ({len(changed)} of {len(files)} files changed).",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
