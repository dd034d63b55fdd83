"""What the end of a run shows and writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .shared import console, escaped


def reported(run: Any, folder: Path) -> None:
    """Print the table of a finished run, and write its report and what it was made of."""
    from ...leaderboard.report import write_report
    from ...leaderboard.terminal import print_table
    from ..running.assemble import results
    from ..running.facts import facts_of

    found = results(run)
    print_table(found, console)
    say_where(write_report(found, folder, facts_of(run)))


def say_where(files: list[Path]) -> None:
    """The page that people read first, then the other files."""
    first, *others = (file.name for file in sorted(files, key=lambda file: file.suffix != ".html"))
    console.print(f"Report: {escaped(str(files[0].parent / first))}", highlight=False, soft_wrap=True)
    console.print(f"Beside it: {escaped(', '.join(others))}", highlight=False, width=min(console.width, 80))
