"""`palimpsest store export` and `import`: finished stages as one file, for another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common.errors import UserError, unknown
from ..common.versions import VERSIONS
from .data import store_app
from .progress import Display
from .shared import DEFAULT_STORE, StorePath, bound_run, console, escaped, existing_store


@store_app.command("export")
def store_export(
    file: Annotated[Path, typer.Argument(help="The archive to write, a .tar")],
    suites: Annotated[
        list[str] | None, typer.Argument(help="Only stages of suite=NAME, with any field=value; every finished stage without it")
    ] = None,
    kinds: Annotated[str, typer.Option(help="Only these kinds, separated by commas, e.g. held,twin: what is dear to make")] = "",
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Write finished stages to one file, checked by hash; prints the digest that import can ask for."""
    from ..common.paths import writable
    from ..running.moving import export

    chosen = [k.strip() for k in kinds.split(",") if k.strip()]
    for kind in chosen:
        if kind not in VERSIONS:
            raise unknown("kind of stage", kind, VERSIONS)
    found = existing_store(store)
    if file.exists():
        raise UserError(f"{file} is there already; name another file, or remove it.")
    writable(file)
    there = [(kind, key) for kind, key, _, _ in found.entries() if not chosen or kind in chosen]
    wanted = [(s.kind, s.key) for s in bound_run(suites, store).plan if not chosen or s.kind in chosen] if suites else there
    stages = [s for s in wanted if s in set(there)]
    if not stages:
        raise UserError(f"The store {store} has no finished stage of what was asked for; palimpsest store ls lists what it has.")
    with Display(console) as display:
        try:
            digest = export(found, stages, file, display.update)
        except OSError as error:
            raise UserError(f"{file} cannot be written: {error.strerror or error}.") from None
    console.print(
        f"{len(stages)} stages, {file.stat().st_size / 1e6:.1f} MB in {escaped(str(file))}"
        + (f"; {len(wanted) - len(stages)} of the suite are not done yet." if len(stages) < len(wanted) else "."),
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"To be sure of it elsewhere: palimpsest store import {escaped(file.name)} --digest {digest}", highlight=False, soft_wrap=True
    )


@store_app.command("import")
def store_import(
    file: Annotated[Path, typer.Argument(help="An archive that palimpsest store export wrote")],
    digest: Annotated[str, typer.Option(help="What export printed: nothing but that very archive is taken")] = "",
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Bring in finished stages, all or none: every hash is checked; what is here already is skipped, and refused where it differs."""
    from ..running.moving import bring_in
    from ..running.store import Store

    if not file.is_file():
        raise UserError(f"There is no file {file}.")
    with Display(console) as display:
        found = bring_in(Store(store), file, digest, display.update)
    console.print(f"{len(found.new)} stages brought into {escaped(str(store))}, {len(found.there)} were there already.", highlight=False)
    if found.stale:
        console.print(f"{found.stale} are of another version of the code that makes them: no suite here will use those.", highlight=False)
