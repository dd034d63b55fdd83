"""The one error that is the user's to mend: the command line prints its text and no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Says what was expected, what came, and what to do next."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """An error for a name that is not known, with the nearest known names."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return UserError(f"There is no {kind} named {name!r}.{hint} Known: {', '.join(names) or 'none'}.")


def of_library(error: BaseException, name: str) -> bool:
    """Whether an exception is of a library's own kind."""
    return type(error).__module__.partition(".")[0] == name


def first_line(error: BaseException) -> str:
    """The first line of what a library says; what it says of a missing key is the key alone."""
    if isinstance(error, KeyError):
        return f"{error} is missing"
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    speaks = isinstance(error, OSError | ValueError | ImportError | RuntimeError)  # what others say is no sentence
    return said if said and speaks else f"{type(error).__name__} {said}".strip()


def listed(names: Iterable[str], shown: int = 3) -> str:
    """The first few of some names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
