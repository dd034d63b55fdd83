"""Plug-ins are strangers: what goes wrong in their code is said in one line, and none of it ends the program by itself."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from .errors import UserError

T = TypeVar("T")
OURS = str(Path(__file__).resolve().parents[1])
INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
SHOW = "PALIMPSEST_TRACEBACK"  # set in the environment, the command line shows where an error came from


@contextmanager
def stranger(what: str) -> Iterator[None]:
    """Around a call of a plug-in's code; `what` names it and what it was to do.

    An exception or an exit becomes a `UserError` with the place, unless it is the user's own interruption, or the machine's
    lack of memory or disk, which is no fault of the plug-in.
    """
    try:
        yield
    except UserError as error:
        if what in str(error):
            raise
        raise UserError(f"{what}: {error}") from error
    except (KeyboardInterrupt, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        if getattr(error, "errno", None) in (28, 122) or "(os error " in str(error) or "out of memory" in str(error):
            raise  # a full disk in either way of saying it, a full GPU
        raise UserError(f"{what}: {_said(error)}{_place(error)}. Set {SHOW}=1 to see the whole traceback.") from error


def each(items: Iterable[T] | None, what: str) -> Iterator[T]:
    """The items that a plug-in's function gives, one by one, each made under `stranger`."""
    if not isinstance(items, Iterable):
        raise UserError(f"{what}: expected a generator or a list, got {type(items).__name__}.")
    with stranger(what):
        iterator = iter(items)
    while True:
        with stranger(what):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def _said(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it asked the program to exit (status {error.code}), which only the command line may"
    lines = str(error).strip().splitlines()
    return type(error).__name__ + (f": {lines[0]}" if lines else "")


def _place(error: BaseException) -> str:
    """The innermost line that is neither the benchmark's nor an installed library's, else the innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not str(Path(f.filename)).startswith((OURS, *INSTALLED))] or frames
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
