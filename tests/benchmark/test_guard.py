"""What is stored: read-only files, and an error where a plug-in changed one all the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.guard import untouched
from palimpsest.benchmark.running.store import Stage, Store


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A finished stage."""

    def build(folder: Path) -> None:
        (folder / "part").mkdir()
        for name in ("config.json", "part/weights"):
            (folder / name).write_text("as it was")

    return Store(tmp_path / "store").ensure(Stage("held", "a stage", {}, build))


def replace(file: Path) -> None:
    file.unlink()
    file.write_text("as it wa5")


def rewrite(file: Path) -> None:
    file.chmod(0o644)
    file.write_text("and longer than that")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another file under the same name": (lambda folder: replace(folder / "config.json"), "config.json"),
    "written to": (lambda folder: rewrite(folder / "part" / "weights"), "part/weights"),
    "gone": (lambda folder: (folder / "config.json").unlink(), "config.json"),
    "one more": (lambda folder: (folder / "extra.safetensors").write_text(""), "extra.safetensors"),
    "many": (lambda folder: [(folder / f"{i}").write_text("") for i in range(5)], "0, 1, 2 and 2 more"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_found_and_told_with_who_did_it(change: str, held: Path) -> None:
    work, names = CHANGES[change]
    with (
        pytest.raises(UserError, match=rf"vandal, seed 0 changed files that it may only read: {names} in {held}"),
        untouched("vandal, seed 0", held),
    ):
        work(held)


def test_reading_changes_nothing(held: Path) -> None:
    with untouched("a method", held, held):
        assert (held / "config.json").read_text() == "as it was"


def test_files_of_a_finished_stage_are_read_only_and_their_folder_can_be_deleted(held: Path) -> None:
    files = [f for f in held.rglob("*") if f.is_file()]
    assert len(files) == 3
    assert not [f for f in files if f.stat().st_mode & 0o222]
    shutil.rmtree(held)
    assert not held.exists()
