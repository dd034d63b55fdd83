"""`palimpsest new`: a commented starting file for a plug-in of one's own, which passes `palimpsest check` as it is."""

from __future__ import annotations

import keyword
import re
from enum import StrEnum
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from ..common.errors import UserError
from ..common.plugins import names
from .shared import console

TEMPLATES = Path(__file__).parent / "templates"


class Kind(StrEnum):
    """What can be begun."""

    method = "method"
    attack = "attack"


def new(
    kind: Annotated[Kind, typer.Argument(help="method or attack")],
    name: Annotated[str, typer.Argument(help="A Python identifier, for example my_method: becomes the file my_method.py")],
    folder: Annotated[Path, typer.Option(help="Where the file goes.")] = Path("."),
) -> None:
    """Write a commented starting file for a method or an attack of one's own; it passes `palimpsest check` as it is."""
    file, cls = begin(kind.value, name, folder)
    console.print(f"{file} defines the {kind.value} {cls}. Next:", markup=False, highlight=False)
    for command in ("check", "run suite=smoke"):
        console.print(f"  palimpsest {command} {kind.value}={file}:{cls}", markup=False, highlight=False, soft_wrap=True)


def begin(kind: str, name: str, folder: Path) -> tuple[Path, str]:
    """Write the starting file; returns it and the name of its class."""
    cls = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    text = (TEMPLATES / f"{kind}.py.txt").read_text("utf-8")
    if not (name.isidentifier() and cls.isidentifier()) or keyword.iskeyword(name):
        raise UserError(f"{name!r} is no name for a {kind}: expected a Python identifier, for example my_{kind}.")
    if name.lower() in names(kind):
        raise UserError(
            f"There is a {kind} {name!r} already (palimpsest list {kind}s): choose another name, for example my_{name.lower()}."
        )
    if re.search(rf"\b{cls}\b", text):
        raise UserError(f"The class {cls} would hide what its own file uses: choose another name, for example my_{name}.")
    if not folder.is_dir():
        raise UserError(f"There is no folder {str(folder)!r} to write {name}.py to.")
    file = folder / f"{name}.py"
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(Template(text).substitute(name=name, cls=cls))
    except FileExistsError:
        raise UserError(f"{file} is there already and stays as it is: choose another name, or another --folder.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}.") from None
    return file, cls
