"""By what workers of a cluster know a run's store: a name that it keeps, and a token that lies in it while a run lasts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock

from .store import Store

TOKENS = ".cluster"  # folder of the run's store: who finds the run's token there sees that store


def home_of(store: Store) -> str:
    """The name of a store, drawn once and kept in it."""
    file = store.root / TOKENS / "home"
    file.parent.mkdir(exist_ok=True)
    with FileLock(f"{file}.lock"):
        if not file.is_file() or not file.read_text():  # an interruption may have left it empty
            file.write_text(os.urandom(8).hex())
        return file.read_text()


@contextmanager
def token_of(store: Store) -> Iterator[str]:
    """A token in the store while a run lasts."""
    name = os.urandom(8).hex()
    file = store.root / TOKENS / name
    file.parent.mkdir(exist_ok=True)
    file.touch()
    try:
        yield name
    finally:
        file.unlink(missing_ok=True)
