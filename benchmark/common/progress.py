"""How work says how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Progress(Protocol):
    """Is told what is being done, how many steps of it are done, and of how many; 1 where it has no steps."""

    def __call__(self, what: str, done: int, of: int, /) -> Any: ...


def silent(what: str, done: int, of: int) -> None:
    """For whom nobody waits."""


def within(label: str, progress: Progress) -> Progress:
    """What is told of a part is told under the label of the whole."""
    return lambda what, done, of: progress(f"{label}{what}", done, of)


def terms(values: Mapping[str, float]) -> str:
    """The terms of a loss in words."""
    return "".join(f"  {name} {value:.3f}" for name, value in values.items())
