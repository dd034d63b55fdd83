"""Stages carried to another store: whole and as they were, or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.running.moving import INDEX, bring_in, export
from palimpsest.benchmark.running.store import Stage, Store, _sha_of

Members = list[tuple[tarfile.TarInfo, bytes]]


def stage(kind: str = "held", text: str = "", **inputs: Any) -> Stage:
    def write(folder: Path) -> dict[str, Any]:
        (folder / "deep").mkdir()
        (folder / "deep" / "model.safetensors").write_text(text or json.dumps(inputs) * 1000)
        (folder / "config.json").write_text("{}")
        return {"tokens": 7}

    return Stage(kind, f"{kind} of {inputs}", inputs, write)


def silent(what: str, done: int, of: int) -> None:
    """No progress."""


STAGES = [stage(a=1), stage("twin", a=1), stage("quality", b={"c": [1, 2.5, None]})]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(tmp_path_factory.mktemp("here"))
    for it in STAGES:
        made.ensure(it)
    return made


@pytest.fixture(scope="module")
def exported(store: Store, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("archive") / "a.tar"
    export(store, [(s.kind, s.key) for s in STAGES], file, silent)
    return file.read_bytes()


@pytest.fixture
def archive(exported: bytes, tmp_path: Path) -> Path:
    (tmp_path / "a.tar").write_bytes(exported)
    return tmp_path / "a.tar"


@pytest.fixture
def there(tmp_path: Path) -> Store:
    return Store(tmp_path / "there")


def content(store: Store) -> dict[str, bytes]:
    """Everything in a store, hidden things too, but for locks."""
    return {str(f.relative_to(store.root)): f.read_bytes() for f in store.root.rglob("*") if f.is_file() and f.suffix != ".lock"}


# ---- honest ones


def test_stages_arrive_as_they_were_and_are_done(store: Store, archive: Path, there: Store) -> None:
    found = bring_in(there, archive, "", silent)
    assert content(there) == content(store)
    assert (len(found.new), found.there, found.stale) == (3, [], 0)
    for it in STAGES:
        assert there.done(it)
        assert there.ensure(it) == there.folder(it)
        assert all(not f.stat().st_mode & 0o222 for f in there.folder(it).rglob("*") if f.is_file())


def test_an_archive_is_the_same_whoever_writes_it_and_names_what_it_holds(store: Store, archive: Path, tmp_path: Path) -> None:
    export(store, [(s.kind, s.key) for s in STAGES], tmp_path / "b.tar", silent)
    assert (tmp_path / "b.tar").read_bytes() == archive.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "b.tar"]
    with tarfile.open(archive) as tar:
        assert [m.name.split("/")[0] for m in tar][0::3] == [INDEX, "held", "twin", "quality"]


def test_what_is_there_already_is_skipped(store: Store, archive: Path, there: Store) -> None:
    there.ensure(STAGES[0])
    before = (there.folder(STAGES[0]) / "manifest.json").read_bytes()
    found = bring_in(there, archive, "", silent)
    assert (len(found.new), found.there) == (2, [there.folder(STAGES[0])])
    assert (there.folder(STAGES[0]) / "manifest.json").read_bytes() == before
    assert bring_in(there, archive, "", silent).new == []


def test_what_is_there_and_differs_is_refused_with_all_the_rest(archive: Path, there: Store) -> None:
    there.ensure(stage("quality", "another machine's numbers", b={"c": [1, 2.5, None]}))
    before = content(there)
    with pytest.raises(UserError, match="is here already with other content"):
        bring_in(there, archive, "", silent)
    assert content(there) == before


def test_what_differs_is_replaced_where_the_archive_is_what_counts(store: Store, archive: Path, there: Store) -> None:
    there.ensure(stage("quality", "another machine's numbers", b={"c": [1, 2.5, None]}))
    there.ensure(STAGES[1])
    damaged = there.ensure(STAGES[0]) / "config.json"
    damaged.chmod(0o644)
    damaged.write_text("[]")
    found = bring_in(there, archive, "", silent, replace=True)
    assert found.there == [there.folder(STAGES[1])]
    assert sorted(found.new) == sorted(there.folder(s) for s in (STAGES[0], STAGES[2]))
    for it in STAGES:
        assert there.verify(there.folder(it))["files"] == store.manifest(it)["files"]


def test_an_interrupted_replacement_leaves_no_stage_and_is_done_again(archive: Path, there: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    other = stage("quality", "another machine's numbers", b={"c": [1, 2.5, None]})
    there.ensure(other)
    remove = shutil.rmtree

    def interrupted(folder: Path, ignore_errors: bool = False) -> None:
        if folder == there.folder(other):
            (folder / "config.json").unlink()
            raise KeyboardInterrupt
        remove(folder, ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bring_in(there, archive, "", silent, replace=True)
    monkeypatch.undo()
    assert not there.done(other)
    bring_in(there, archive, "", silent)
    there.verify(there.folder(other))


def test_what_another_process_makes_is_waited_for_if_so_asked(archive: Path, there: Store) -> None:
    (there.root / "twin").mkdir()
    lock = FileLock(f"{there.folder(STAGES[1])}.lock", thread_local=False)
    lock.acquire()
    later = threading.Timer(0.5, lock.release)
    later.start()
    assert len(bring_in(there, archive, "", silent, wait=60).new) == 3
    later.join()


def test_the_digest_tells_one_archive_from_another(store: Store, tmp_path: Path, there: Store) -> None:
    one = export(store, [(STAGES[0].kind, STAGES[0].key)], tmp_path / "1.tar", silent)
    two = export(store, [(STAGES[1].kind, STAGES[1].key)], tmp_path / "2.tar", silent)
    with pytest.raises(UserError, match="is not the archive with digest"):
        bring_in(there, tmp_path / "2.tar", one, silent)
    assert content(there) == {}
    assert len(bring_in(there, tmp_path / "2.tar", two, silent).new) == 1


def test_stages_of_other_code_are_counted(archive: Path, there: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from palimpsest.benchmark.running import moving

    monkeypatch.setitem(moving.VERSIONS, "twin", 99)
    assert bring_in(there, archive, "", silent).stale == 1


def test_what_another_process_makes_is_not_touched(archive: Path, there: Store) -> None:
    (there.root / "twin").mkdir()
    with FileLock(f"{there.folder(STAGES[1])}.lock"), pytest.raises(UserError, match="Another process is making twin"):
        bring_in(there, archive, "", silent)
    assert content(there) == {}


def test_a_damaged_stage_is_not_exported(tmp_path: Path) -> None:
    store = Store(tmp_path / "here")
    store.ensure(STAGES[0])
    file = store.folder(STAGES[0]) / "config.json"
    file.chmod(0o644)
    file.write_text("[]")
    with pytest.raises(UserError, match="is damaged"):
        export(store, [(STAGES[0].kind, STAGES[0].key)], tmp_path / "a.tar", silent)
    assert not list(tmp_path.glob("*a.tar*"))


def test_a_full_disk_is_told_before_anything_is_written(archive: Path, there: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from palimpsest.benchmark.running import moving

    monkeypatch.setattr(moving.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(UserError, match="0 MB are free"):
        bring_in(there, archive, "", silent)
    assert content(there) == {}


# ---- hostile ones


def members(archive: Path) -> Members:
    with tarfile.open(archive) as tar:
        return [(m, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]


def written(found: Members, file: Path, format: int = tarfile.GNU_FORMAT) -> None:
    with tarfile.open(file, "w", format=format) as tar:
        for m, data in found:
            m.size = len(data) if m.isreg() else 0
            tar.addfile(m, io.BytesIO(data))


def member(name: str, **fields: Any) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    for k, v in fields.items():
        setattr(found, k, v)
    return found


def index_of(found: Members) -> Members:
    """The same with an index that fits it."""
    files = [{"name": m.name, "size": len(d), "sha256": hashlib.sha256(d).hexdigest()} for m, d in found if m.name != INDEX]
    return [(member(INDEX), json.dumps({"files": files, "schema": 1}).encode()), *found[1:]]


def renamed(found: Members, which: int, name: str) -> Members:
    return index_of([(member(name) if i == which else m, d) for i, (m, d) in enumerate(found)])


def remade(found: Members, **changes: Any) -> Members:
    """The first stage's manifest edited, and sealed again: whoever forges can do that."""
    manifest = json.loads(found[1][1]) | changes
    manifest["sha"] = _sha_of(manifest)
    return index_of([found[0], (found[1][0], json.dumps(manifest).encode()), *found[2:]])


KEY = STAGES[0].key
FORGED: dict[str, tuple[Callable[[Members], Members], str]] = {
    "no index": (lambda f: f[1:], "does not begin with index.json"),
    "an index that is no JSON": (lambda f: [(f[0][0], b"{"), *f[1:]], "index.json cannot be read"),
    "an index nested too deeply": (lambda f: [(f[0][0], b"[" * 100_000), *f[1:]], "index.json cannot be read"),
    "another schema": (lambda f: [(f[0][0], f[0][1].replace(b'"schema": 1', b'"schema": 2')), *f[1:]], "has schema 2"),
    "a file that was edited": (lambda f: [*f[:2], (f[2][0], b"[]"), *f[3:]], "is not as it was exported"),
    "an edited file with its index": (lambda f: index_of([*f[:2], (f[2][0], b"[]"), *f[3:]]), "is damaged"),
    "an edited file, index and manifest": (
        lambda f: remade([*f[:2], (f[2][0], b"[]"), *f[3:]], inputs={"a": 2}, files={}),
        "is damaged",
    ),
    "other inputs under this key": (lambda f: remade(f, inputs={"a": 2}), "is not that of its inputs"),
    "another version under this key": (lambda f: remade(f, version=7), "is not that of its inputs"),
    "a manifest of other types": (lambda f: remade(f, files=["config.json"]), "the manifest of held"),
    "a manifest that is none": (lambda f: index_of([f[0], (f[1][0], b"[]"), *f[2:]]), "the manifest of held"),
    "a manifest nested too deeply": (lambda f: index_of([f[0], (f[1][0], b"[" * 100_000), *f[2:]]), "the manifest of held"),
    "a stage without a manifest": (lambda f: index_of([f[0], *f[2:]]), "where a stage's manifest should be"),
    "a missing file": (lambda f: [*f[:3], *f[4:]], "where its index has"),
    "the last file missing": (lambda f: f[:-1], "ends before quality"),
    "one file more": (lambda f: [*f, (member(f"held/{KEY}/more"), b"x")], "is cut, or holds more"),
    "one file more, listed": (lambda f: index_of([*f, (member(f"held/{KEY}/more"), b"x")]), "is no file of this stage"),
    "a file twice": (lambda f: index_of([*f, f[2]]), "twice"),
    "a name that differs in case": (lambda f: index_of([*f, (member(f"held/{KEY}/CONFIG.json"), b"{}")]), "twice"),
    "a path out of the store": (lambda f: renamed(f, 2, "../../evil"), "is no file of a stage"),
    "a path out of the stage": (lambda f: renamed(f, 2, f"held/{KEY}/../../evil"), "is no file of a stage"),
    "an absolute path": (lambda f: renamed(f, 2, "/tmp/evil"), "is no file of a stage"),
    "a backslash": (lambda f: renamed(f, 2, f"held/{KEY}/..\\evil"), "is no file of a stage"),
    "a hidden file": (lambda f: renamed(f, 2, f"held/{KEY}/.config"), "is no file of a stage"),
    "a hidden kind": (lambda f: renamed(f, 2, f".rows/{KEY}/x"), "is no file of a stage"),
    "an unknown kind": (lambda f: renamed(f, 2, f"tuning/{KEY}/x"), "is no file of a stage"),
    "a key that is none": (lambda f: renamed(f, 2, "held/../manifest.json"), "is no file of a stage"),
    "a file that is a folder": (lambda f: index_of([*f, (member(f"held/{KEY}/config.json/x"), b"x")]), "cannot be brought in"),
    "a symbolic link": (lambda f: [*f[:2], (member(f[2][0].name, type=tarfile.SYMTYPE, linkname="/x"), b""), *f[3:]], "no regular"),
    "a hard link": (lambda f: [*f[:2], (member(f[2][0].name, type=tarfile.LNKTYPE, linkname=f[1][0].name), b""), *f[3:]], "no regular"),
    "a device": (lambda f: [*f[:2], (member(f[2][0].name, type=tarfile.CHRTYPE), b""), *f[3:]], "no regular"),
    "a header of another format": (lambda f: [(member(INDEX, pax_headers={"path": "x"}), f[0][1]), *f[1:]], "no regular"),
    "a long name's header": (lambda f: [*f, (member("held/" + "x" * 200), b"x")], "is cut, or holds more"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_what_was_forged_is_refused_and_leaves_nothing(name: str, archive: Path, there: Store, tmp_path: Path) -> None:
    forge, message = FORGED[name]
    file = tmp_path / "forged.tar"
    written(forge(members(archive)), file, tarfile.PAX_FORMAT if "another format" in name else tarfile.GNU_FORMAT)
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        bring_in(there, file, "", silent)
    assert content(there) == {}
    assert not [p for p in there.root.rglob("*.part")]
    assert sorted(p.name for p in tmp_path.iterdir()) == before, "nothing outside the store"


@pytest.mark.parametrize("left", [0, 100, 511, 512, 2000, -20_000, -10_240, -9_000, -1])
def test_an_archive_that_is_cut_anywhere_is_refused_and_leaves_nothing(left: int, archive: Path, there: Store, tmp_path: Path) -> None:
    (tmp_path / "cut.tar").write_bytes(archive.read_bytes()[:left])
    with pytest.raises(UserError):
        bring_in(there, tmp_path / "cut.tar", "", silent)
    assert content(there) == {}


def test_a_compressed_archive_is_not_opened(archive: Path, there: Store, tmp_path: Path) -> None:
    import gzip

    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(archive.read_bytes()))
    with pytest.raises(UserError, match="is no archive of stages"):
        bring_in(there, tmp_path / "a.tar.gz", "", silent)


def test_a_store_with_a_link_in_it_is_not_followed(archive: Path, there: Store, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (there.root / "held").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="is a link out of the store"):
        bring_in(there, archive, "", silent)
    assert list((tmp_path / "outside").iterdir()) == []
