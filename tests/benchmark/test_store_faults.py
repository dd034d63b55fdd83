"""The store under faults: nothing half-made, damaged, edited or linked is ever used, and one message says what to do."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.running.store import Stage, Store
from tests.benchmark.stages import stage
from tests.command import Command


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# ---- faults


def test_another_process_making_the_same_stage_is_reported(store: Store) -> None:
    it = stage(a=1)
    store.folder(it).parent.mkdir(parents=True)
    with FileLock(str(store.folder(it)) + ".lock"), pytest.raises(UserError, match="Another process is making a stage"):
        store.ensure(it)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_file_is_reported_and_not_used(damage: str, store: Store) -> None:
    it, other = stage(a=1), stage(a=2)
    file = store.ensure(it) / "deep" / "weights"
    store.ensure(other)
    file.unlink()
    if damage == "cut":
        file.write_text("{")
    with pytest.raises(UserError, match=rf"{it.key} is damaged \(deep/weights is missing or changed\). Delete that folder"):
        store.ensure(it)
    assert store.ensure(other)


@pytest.mark.parametrize("use", ["ensure", "manifest"])
def test_a_damaged_manifest_is_reported(use: str, store: Store) -> None:
    it = stage(a=1)
    file = store.ensure(it) / "manifest.json"
    file.chmod(0o644)
    file.write_text('{"kind": "he')
    with pytest.raises(UserError, match=rf"The manifest of .*{it.key} is damaged, .*Delete that folder"):
        getattr(store, use)(it)


@pytest.mark.parametrize("said", ['{"kind": "he', "null", "[]", "{}", ""])
def test_a_damaged_manifest_is_named_in_lists_and_the_others_are_listed(
    said: str, store: Store, caplog: pytest.LogCaptureFixture, palimpsest: Command
) -> None:
    it, *others = (stage(a=n) for n in range(3))
    for one in (it, *others):
        store.ensure(one)
    file = store.folder(it) / "manifest.json"
    file.chmod(0o644)
    file.write_text(said)
    assert {key for _, key, _, _ in store.entries()} == {one.key for one in others}
    assert f"The manifest of {store.folder(it)} is damaged" in caplog.text
    caplog.clear()
    code, out, _ = palimpsest("store", "ls", "--store", str(store.root))
    assert code == 0
    assert all(one.key in out for one in others)
    assert it.key in caplog.text
    archive = store.root.parent / "a.tar"
    assert "2 stages" in palimpsest("store", "export", str(archive), "--store", str(store.root))[1]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),  # as safetensors says it
    ],
)
def test_a_full_disk_is_told_in_one_message_and_keeps_what_is_finished(error: Exception, store: Store) -> None:
    done = stage(a=1)
    store.ensure(done)

    def build(folder: Path) -> None:
        raise error

    it = stage(build, a=2, label="inject, seed 0")
    with pytest.raises(UserError, match=r"The disk is full: inject, seed 0 was not saved\. Free some space and run again"):
        store.ensure(it)
    assert store.done(done)
    assert not store.done(it)


def test_other_faults_of_a_stage_are_not_swallowed(store: Store) -> None:
    def build(folder: Path) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        store.ensure(stage(build, a=1))


def test_a_store_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"The store .*file/below cannot be made: Not a directory. Choose another with --store"):
        Store(tmp_path / "file" / "below")


# ---- protection


def _edit(store: Store, it: Stage, **changes: Any) -> None:
    file = store.folder(it) / "manifest.json"
    file.chmod(0o644)
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "changes",
    [{"files": {}}, {"tokens": 8}, {"inputs": {"a": 2}}, {"seconds": -1}, {"sha": "0" * 16}, {"more": 1}, {"key": "0" * 16}],
    ids=str,
)
def test_a_manifest_whose_text_was_edited_is_refused(changes: dict[str, Any], store: Store) -> None:
    it = stage(a=1)
    store.ensure(it)
    _edit(store, it, **changes)
    for use in (store.ensure, store.manifest):
        with pytest.raises(UserError, match="is not as it was written"):
            use(it)


def test_a_manifest_that_was_moved_from_another_stage_is_refused(store: Store) -> None:
    it, other = stage(a=1), stage(a=2)
    store.ensure(it)
    store.ensure(other)
    (store.folder(it) / "manifest.json").unlink()
    (store.folder(it) / "manifest.json").write_bytes((store.folder(other) / "manifest.json").read_bytes())
    with pytest.raises(UserError, match="is not as it was written"):
        store.ensure(it)


def test_a_file_that_is_not_in_the_list_is_refused(store: Store) -> None:
    it = stage(a=1)
    (store.ensure(it) / "deep" / "more").write_text("x")
    with pytest.raises(UserError, match=r"is damaged \(deep/more is no file of this stage\)"):
        store.ensure(it)


def test_a_finished_stage_without_any_file_is_refused(store: Store) -> None:
    it = stage(lambda folder: None, a=1)
    store.ensure(it)
    with pytest.raises(UserError, match=r"is damaged \(every file is missing\)"):
        store.ensure(it)


@pytest.mark.parametrize("what", ["", "manifest.json", "deep/weights", "deep"])
def test_a_link_out_of_the_store_is_refused_and_never_followed(what: str, store: Store, tmp_path: Path) -> None:
    it = stage(a=1)
    inside, outside = store.ensure(it) / what, tmp_path / "outside"
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(UserError, match=r"is a link out of the store|is damaged|is not as it was written"):
        store.ensure(it)
    store.collect(set(), delete=True)
    assert not store.folder(it).exists()
    assert outside.is_file() or any(outside.iterdir())


def test_a_kind_that_is_a_link_is_refused(store: Store, tmp_path: Path) -> None:
    it = stage(a=1)
    store.ensure(it)
    (store.root / "held").rename(tmp_path / "outside")
    (store.root / "held").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="is a link out of the store"):
        store.ensure(it)
    assert list(store.entries()) == []
    assert store.collect(set(), delete=True) == []
    assert (tmp_path / "outside" / it.key / "manifest.json").is_file()


def test_facts_that_are_not_finite_leave_a_manifest_whole(store: Store) -> None:
    it = stage(lambda folder: {"cost": float("nan"), "n": (folder / "it").write_text("x")}, a=1)
    store.ensure(it)
    assert store.ensure(it)
