"""Hostile cases: what comes in broken, and the one line that answers it.

A table is a module here with a `TITLE` and `CASES`; it is found by being here. `python -m tests.hostile` prints docs/hostile.md.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import pkgutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType

from palimpsest.benchmark import cli

INTRODUCTION = """What comes in broken, and what is answered: one line, status 1, no traceback, before any work. What is accepted is
shown too. Written by `python -m tests.hostile`; the tables are the modules of `tests/hostile`, and the tests hold this
page against them."""


@dataclass(frozen=True)
class Case:
    """A command in a folder that holds `files` (and what `make` puts there): its exit status, and what its last line says."""

    what: str
    command: tuple[str, ...]
    says: str  # part of the message on stderr; where the status is 0, of what is printed
    files: Mapping[str, str | bytes] = field(default_factory=dict, hash=False, repr=False)
    make: Callable[[Path], object] | None = None
    status: int = 1


@dataclass(frozen=True)
class Answer:
    """What the command did."""

    status: int
    out: str
    err: str


def tables() -> dict[str, ModuleType]:
    """The modules of cases by name, in their order in the document."""
    found = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
    return {m.__name__.rpartition(".")[2]: m for m in found if hasattr(m, "CASES")}


def cases() -> list[Case]:
    return [case for table in tables().values() for case in table.CASES]


@cache
def answer(case: Case) -> Answer:
    """Run the command in this process, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, content in case.files.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
        if case.make:
            case.make(Path(folder))
        out, err, status = io.StringIO(), io.StringIO(), 0
        argv, sys.argv = sys.argv, ["palimpsest", *case.command]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            sys.argv = argv
    return Answer(status, out.getvalue(), err.getvalue())


def page() -> str:
    """docs/hostile.md: every case with the message that answers it."""
    lines = ["# Hostile cases", "", INTRODUCTION]
    for table in tables().values():
        commands = {c.command for c in table.CASES}
        lines += ["", f"## {table.TITLE}", ""]
        if len(commands) == 1:  # said once, not in every line
            lines += [f"`palimpsest {' '.join(commands.pop())}`", "", "| what | answer |", "|---|---|"]
            lines += [f"| {_cell(c.what)} | {_cell(_said(c))} |" for c in table.CASES]
        else:
            lines += ["| what | command | answer |", "|---|---|---|"]
            lines += [f"| {_cell(c.what)} | `palimpsest {_cell(' '.join(c.command))}` | {_cell(_said(c))} |" for c in table.CASES]
    return "\n".join(lines) + "\n"


def _said(case: Case) -> str:
    found = answer(case)
    if found.status:
        return found.err.strip().removeprefix("Error: ")
    return next(line for line in found.out.split("\n") if case.says in line).strip()


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "\\<")
