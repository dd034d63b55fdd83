"""Finished stages as one file, to be carried to another machine: a plain tar that begins with an index of all that follows.

An archive is a stranger's until it was read to its end: names come from the index, which is checked first; nothing but the files that it
lists is read, in its order; nothing becomes a stage before every hash, of the index and of each manifest, was found right.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Any

from filelock import FileLock, Timeout

from ..common.errors import UserError, listed
from ..common.fields import build
from ..common.guard import read_only
from ..common.versions import VERSIONS
from .store import Store, key_of

INDEX, MANIFEST = "index.json", "manifest.json"
SCHEMA = 1
LARGEST_INDEX = 64 << 20  # bytes
MOST_FILES = 200_000
LONGEST_NAME = 100  # bytes, what a tar header holds
CHUNK = 1 << 20
KEY = re.compile(r"[0-9a-f]{16}")
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=,@ -]*")  # of a name: no dot first, nothing that a file system reads in its own way
TYPES = {"kind": str, "key": str, "version": int, "label": str, "inputs": dict, "files": dict, "seconds": int | float, "sha": str}


@dataclass(frozen=True)
class Entry:
    """One file of the archive."""

    name: str  # KIND/KEY/…
    size: int  # bytes
    sha256: str

    @property
    def stage(self) -> tuple[str, str]:
        kind, key, _ = self.name.split("/", 2)
        return kind, key


@dataclass(frozen=True)
class Index:
    """What an archive holds: each stage's manifest first, then its files."""

    files: tuple[Entry, ...]
    schema: int = SCHEMA


@dataclass(frozen=True)
class Moved:
    """What an import found: stages that are new here, and stages that were here already with the same files."""

    new: list[Path]
    there: list[Path]
    stale: int  # new ones that another version of the code made than is here


def export(store: Store, stages: Sequence[tuple[str, str]], file: Path, progress: Callable[[str, int, int], Any]) -> str:
    """Write finished stages, (kind, key), to a tar; returns the digest of its index. Every stage is checked first."""
    entries: list[Entry] = []
    for kind, key in stages:
        folder = store.root / kind / key
        store.verify(folder)
        entries += [_entry(store.root, f) for f in [folder / MANIFEST, *sorted(_inside(folder))]]
    index = json.dumps(asdict(Index(tuple(entries)))).encode()
    part = file.with_name(f".{file.name}.part")
    try:
        with tarfile.open(part, "w", format=tarfile.GNU_FORMAT) as tar:
            tar.addfile(_member(INDEX, len(index)), BytesIO(index))
            for i, e in enumerate(entries):
                progress(e.name, i, len(entries))
                with (store.root / e.name).open("rb") as content:
                    tar.addfile(_member(e.name, e.size), content)
        part.rename(file)
    finally:
        part.unlink(missing_ok=True)
    return hashlib.sha256(index).hexdigest()


def bring_in(
    store: Store, file: Path, expected: str, progress: Callable[[str, int, int], Any], *, replace: bool = False, wait: float = 0
) -> Moved:
    """Make the stages of an archive stages of this store, all or none; UserError, and nothing changed, if anything is wrong.

    `expected` is the digest that the export printed. Empty: the archive is known to be whole, but not to be the one that was sent.
    `replace`: what is here with other content, or damaged, gives way to the archive's; else it is an error.
    `wait`: seconds that another process may still be making one of the stages.
    """
    with _opened(file) as tar:
        index, digest = _index(tar, file)
        if expected and digest != expected:
            raise UserError(f"{file} is not the archive with digest {expected}: its own is {digest}. Fetch it again.")
        stages = list(dict.fromkeys(e.stage for e in index.files))
        with ExitStack() as held, _parts(store, stages, held, file, wait) as parts:
            _room(store, index)
            for i, e in enumerate(index.files):
                progress(e.name, i, len(index.files))
                _take(tar, e, parts, file)
            _ended(tar, file)
            new = [at for at, part in parts.items() if not _same(store, at, part, file, replace)]
            for at in new:
                final = store.root / at[0] / at[1]
                read_only(parts[at])
                (final / MANIFEST).unlink(missing_ok=True)  # first: what an interruption leaves is no stage
                shutil.rmtree(final, ignore_errors=True)
                parts[at].rename(final)
    folders = {at: store.root / at[0] / at[1] for at in stages}
    stale = sum(json.loads((folders[at] / MANIFEST).read_text("utf-8"))["version"] != VERSIONS[at[0]] for at in new)
    return Moved([folders[at] for at in new], [folders[at] for at in stages if at not in new], stale)


# ---- writing


def _entry(root: Path, file: Path) -> Entry:
    name = file.relative_to(root).as_posix()
    if len(name.encode()) > LONGEST_NAME or not all(map(PART.fullmatch, PurePosixPath(name).parts)):
        raise UserError(f"The file {file} has a name that an archive of stages cannot hold.")
    with file.open("rb") as content:
        return Entry(name, file.stat().st_size, hashlib.file_digest(content, "sha256").hexdigest())


def _inside(folder: Path) -> list[Path]:
    return [f for f in folder.rglob("*") if f.is_file() and f != folder / MANIFEST]


def _member(name: str, size: int) -> tarfile.TarInfo:
    """The same bytes whoever exports: no owner, no time."""
    found = tarfile.TarInfo(name)
    found.size, found.mode = size, 0o444
    return found


# ---- reading


class _Plain(tarfile.TarInfo):
    """Headers of regular files alone: no links, no devices, no sparse files, no further headers that a reader would hold in memory."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise tarfile.ReadError(f"{self.name[:LONGEST_NAME]!r} is no regular file")
        return super()._proc_member(tar)  # type: ignore[misc]


@contextmanager
def _opened(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(file, "r:", tarinfo=_Plain) as tar:
            yield tar
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{file} is no archive of stages, or only a part of one ({error}). Export it again.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be brought in: {error.strerror or error}.") from None


def _index(tar: tarfile.TarFile, file: Path) -> tuple[Index, str]:
    """The index, each of whose names is a place in a store, and its digest."""
    first = tar.next()
    if first is None or first.name != INDEX or first.size > LARGEST_INDEX:
        raise UserError(f"{file} does not begin with {INDEX}; expected an archive that palimpsest store export wrote.")
    text = _content(tar, first).read(first.size)
    try:
        found = build(Index, json.loads(text), f"{file}: {INDEX}")
    except (ValueError, RecursionError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: {INDEX} cannot be read ({error}). Export it again.") from None
    if found.schema != SCHEMA:
        raise UserError(f"{file} has schema {found.schema}; this version reads schema {SCHEMA}.")
    if len(found.files) > MOST_FILES:
        raise UserError(f"{file} lists {len(found.files)} files; at most {MOST_FILES} are taken.")
    for e in found.files:
        parts = e.name.split("/")
        if len(parts) < 3 or parts[0] not in VERSIONS or not KEY.fullmatch(parts[1]) or not all(map(PART.fullmatch, parts)) or e.size < 0:
            raise UserError(f"{file} lists {e.name!r}, which is no file of a stage. Nothing was brought in.")
    count = Counter(e.name.casefold() for e in found.files)  # some file systems take two such names for one
    if twice := [name for name, n in count.items() if n > 1]:
        raise UserError(f"{file} lists {listed(twice)} twice. Nothing was brought in.")
    first_of = {e.stage: e for e in reversed(found.files)}
    if odd := [e for e in first_of.values() if e.name.split("/", 2)[2] != MANIFEST or e.size > LARGEST_INDEX]:
        raise UserError(f"{file} lists {odd[0].name!r} where a stage's manifest should be. Nothing was brought in.")
    return found, hashlib.sha256(text).hexdigest()


@contextmanager
def _parts(store: Store, stages: list[tuple[str, str]], held: ExitStack, file: Path, wait: float) -> Iterator[dict[tuple[str, str], Path]]:
    """A hidden folder beside the place of each stage, while no other process makes that stage; gone afterwards whatever happens."""
    parts: dict[tuple[str, str], Path] = {}
    try:
        for kind, key in stages:
            folder = store.root / kind
            if folder.is_symlink():
                raise UserError(f"The folder {folder} is a link out of the store, which is not followed. Remove the link.")
            folder.mkdir(exist_ok=True)
            try:
                held.enter_context(FileLock(str(folder / f"{key}.lock"), timeout=wait))
            except Timeout:
                raise UserError(f"Another process is making {kind}/{key} in this store; wait for it, then bring in {file} again.") from None
            part = folder / f".{key}.part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            parts[kind, key] = part
        yield parts
    finally:
        for part in parts.values():
            shutil.rmtree(part, ignore_errors=True)


def _room(store: Store, index: Index) -> None:
    need, free = sum(e.size for e in index.files), shutil.disk_usage(store.root).free
    if need > free:
        raise UserError(f"The archive holds {need / 1e6:.0f} MB and {free / 1e6:.0f} MB are free. Nothing was brought in.")


def _take(tar: tarfile.TarFile, entry: Entry, parts: dict[tuple[str, str], Path], file: Path) -> None:
    """The next member, which must be this one, into its stage's hidden folder."""
    member = tar.next()
    if member is None:
        raise UserError(f"{file} ends before {entry.name}: it is only a part of an archive. Nothing was brought in.")
    if (member.name, member.size) != (entry.name, entry.size):
        raise UserError(f"{file} holds {member.name[:LONGEST_NAME]!r} where its index has {entry.name}. Nothing was brought in.")
    to = parts[entry.stage] / entry.name.split("/", 2)[2]
    to.parent.mkdir(parents=True, exist_ok=True)
    digest, content = hashlib.sha256(), _content(tar, member)
    with to.open("xb") as out:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
            out.write(chunk)
    if digest.hexdigest() != entry.sha256 or to.stat().st_size != entry.size:
        raise UserError(f"{file}: {entry.name} is not as it was exported. Nothing was brought in.")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    found = tar.extractfile(member)
    assert found is not None, "a regular file"
    return found


def _ended(tar: tarfile.TarFile, file: Path) -> None:
    """After the last listed file there is the end of a tar, and nothing else."""
    source: Any = tar.fileobj
    source.seek(tar.offset)
    rest = source.read(2 * tarfile.RECORDSIZE)
    whole = len(rest) >= 2 * tarfile.BLOCKSIZE and (tar.offset + len(rest)) % tarfile.RECORDSIZE == 0
    if not whole or len(rest) > tarfile.RECORDSIZE + tarfile.BLOCKSIZE or rest.strip(b"\0"):
        raise UserError(f"{file} does not end where its index says: it is cut, or holds more. Nothing was brought in.")


def _typed(manifest: Path, file: Path) -> None:
    """Refuse a manifest whose fields are of other types than this code writes, before anything else reads it."""
    try:
        found = json.loads(manifest.read_text("utf-8"))
        right = all(isinstance(found[name], kind) for name, kind in TYPES.items())
        right = right and all(isinstance(v, str) for v in found["files"].values())
    except (ValueError, KeyError, TypeError, RecursionError):
        right = False
    if not right:
        raise UserError(
            f"{file}: the manifest of {manifest.parent.parent.name}/{manifest.parent.name[1:17]} is none. Nothing was brought in."
        )


def _same(store: Store, at: tuple[str, str], part: Path, file: Path, replace: bool) -> bool:
    """Whether the stage is here with the same files. UserError if the archive's is not whole or, unless it replaces, they differ."""
    kind, key = at
    _typed(part / MANIFEST, file)
    manifest = store.verify(part, at)
    if key != key_of(kind, manifest["version"], manifest["inputs"]):
        raise UserError(f"{file}: the key of {kind}/{key} is not that of its inputs. Nothing was brought in.")
    final = store.root / kind / key
    if final.is_symlink():
        raise UserError(f"The stage {final} is a link out of the store, which is not followed. Remove the link.")
    if not (final / MANIFEST).is_file():
        return False
    try:
        same = store.verify(final)["files"] == manifest["files"]
    except UserError:
        if not replace:
            raise
        return False
    if not same and not replace:
        raise UserError(
            f"{kind}/{key} is here already with other content, made on another machine perhaps. Nothing was brought in: "
            f"delete {final} to take the archive's, or name another store."
        )
    return same
