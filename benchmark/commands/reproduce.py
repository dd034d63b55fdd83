"""`palimpsest reproduce`: is a row of the leaderboard what comes out when it is made again?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..common.errors import UserError
from .interruption import interruption
from .progress import RunDisplay, hush
from .shared import DEFAULT_STORE, StorePath, console, escaped, estimated, progress_line, whole_numbers

DIFFERS, IMPOSSIBLE = 1, 2
STANDINGS = {"equal": "equal", "within": "within", "outside": "[red]outside[/]", "unknown": "not comparable"}


def reproduce(
    entry: Annotated[Path, typer.Argument(help="leaderboard/entries/TRACK/NAME.json")],
    seed: Annotated[str, typer.Option(help="Of the entry's seeds, e.g. 0 or 0,1; all without it")] = "",
    method: Annotated[str, typer.Option(help="Where the method is, if not here: a dotted path or a file, with :CLASS")] = "",
    precision: Annotated[str, typer.Option(help="bf16 or fp32 in place of the entry's")] = "",
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Make a row again and say value by value whether it is as stated. Exits with 0 if all are, 1 if not, 2 if it cannot be made."""
    try:
        with RunDisplay(console) as display:
            interruption.kept = display.kept
            display.begin("loading libraries, corpus and model")
            from ..submission.reproducing import Asked, bound, reproduced, unlike

            hush()
            row, told, stated = bound(Asked(entry, whole_numbers(seed), method, precision), store)
            row.validate()
            for line in unlike(row, told, stated):
                display.say(f"differs: {line}")
            estimates = estimated(row, display)
            display.say(progress_line(row, estimates))
            display.plan(row, estimates)
            row.progress = display.update
            row.execute(display.finished, display.started)
            found = reproduced(row, told, stated)
    except UserError as error:
        console.print(f"[bold red]Cannot be reproduced here:[/] {escaped(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(IMPOSSIBLE) from None
    _show(stated, found)
    if found.outside:
        raise typer.Exit(DIFFERS)


def _show(stated: Any, found: Any) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("value", "stated", "interval", "found", ""):
        table.add_column(column, justify="left" if column in ("value", "") else "right", overflow="fold")
    for v in found.values:
        interval = f"{v.low:.4g} to {v.high:.4g}" if v.low is not None and v.high is not None else ""
        why = f" ({v.why})" if v.standing == "unknown" and v.why else ""
        table.add_row(escaped(v.name), _number(v.stated), interval, _number(v.found), STANDINGS[v.standing] + escaped(why))
    console.print(table)
    equal, of = found.memories
    console.print(f"Matched lengths, memory by memory: {equal} of {of} are equal.", highlight=False)
    for m in found.lengths:
        if m.equal < m.of or m.alone:
            alone = f", {m.alone} asked on one side only" if m.alone else ""
            line = f"  seed {m.seed}, {m.attack}: {m.equal} of {m.of}, at most {m.apart} tokens apart{alone}"
            console.print(escaped(line), highlight=False, soft_wrap=True)
    for seed, same in found.weights.items():
        console.print(f"Weights of seed {seed}: {'identical' if same else 'not identical'}.", highlight=False)
    for line in found.surroundings:
        console.print(f"Differs: {escaped(line)}", highlight=False, soft_wrap=True)
    if found.identical:
        where = "on the same versions and machine kind" if not found.surroundings else "though what is named above differs"
        console.print(f"[green]Identical {where}.[/]", highlight=False)
        return
    inside = sum(v.standing in ("equal", "within") for v in found.values)
    known = sum(v.standing != "unknown" for v in found.values)
    console.print(f"{inside} of {known} values lie within the intervals that {escaped(stated.name)} states.", highlight=False)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
