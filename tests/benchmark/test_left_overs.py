"""What processes that were killed in the middle of moving a stage have left: collected when nobody can be working on it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from palimpsest.benchmark.running.store import DAY, Store


@pytest.fixture(params=[False, True], ids=["a folder", "a link to a folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    return Store(tmp_path / ("link" if request.param else "real"))


def left(store: Store, name: str, age: float, inside: float) -> Path:
    """A folder that was made so many seconds ago, with an archive that was last written so many seconds ago."""
    (folder := store.root / name).mkdir()
    (folder / "stage.tar").write_text("a whole model")
    for path, seconds in ((folder / "stage.tar", inside), (folder, age)):
        os.utime(path, (time.time() - seconds, time.time() - seconds))
    return folder


@pytest.mark.parametrize("name", [".packed-x7", ".received-x7"])
def test_what_a_killed_process_was_moving_is_collected_after_a_day(name: str, store: Store) -> None:
    old = left(store, name, 2 * DAY, 2 * DAY)
    young = left(store, f"{name}2", 60, 60)
    written = left(store, f"{name}3", 2 * DAY, 60)
    (store.root / ".received.lock").touch()
    (store.root / ".quality-x7").mkdir()
    assert store.collect(set(), delete=False) == [(old, 13)]
    assert old.is_dir()
    assert store.collect(set(), delete=True) == [(old, 13)]
    assert not old.exists()
    assert young.is_dir()
    assert written.is_dir()
    assert store.collect(set(), delete=True) == []
