"""The content-addressed store: a stage's folder is named by the hash of its inputs, and existence means done.

Nothing is followed out of it: a stage, a file or a manifest that is a link is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..common.errors import UserError
from ..common.guard import read_only
from ..common.processes import from_first_rank, is_main
from ..common.versions import VERSIONS
from ..training.metering import memory, reset_peak
from .provenance import provenance

ROWS = ".rows"  # side files: what models were asked and answered
COLLECTED = ("[!.]*/*", ".scratch/*", f"{ROWS}/*", ".packed-*", ".received-*")  # the last two: archives on their way, see `task`
DAY = 86_400  # seconds
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What a stage will do, in tokens that its model is given. Stages that are `alike` take about the same time for the same work."""

    alike: str = ""  # its first word says what is roughly alike
    where: str = ""  # the model, the precision and the machine
    trained: float = 0  # tokens of training steps
    asked: float = 0  # tokens of rows that are read
    scored: float = 0  # tokens that lm-eval gives to the model
    said: float = 0  # steps of greedy generation
    other: float = 1  # seconds that every machine takes: opening and saving


@dataclass(frozen=True)
class Stage:
    """One arrow of the plan: what it is, what it reads, and how to make it. `build` fills a folder and returns facts for the manifest."""

    kind: str
    label: str
    inputs: dict[str, Any]
    build: Callable[[Path], dict[str, Any] | None]
    work: Callable[[], Work] = Work  # how much it will be, for estimates
    parallel: bool = False  # under the launcher every rank takes part

    @cached_property
    def key(self) -> str:
        return key_of(self.kind, self.version, self.inputs)

    @property
    def version(self) -> int:
        """Of the code that makes stages of this kind."""
        return VERSIONS.get(self.kind, 1)


def key_of(kind: str, version: int, inputs: dict[str, Any]) -> str:
    """The name of a stage's folder."""
    return hashlib.sha256(canonical({"kind": kind, "version": version, **inputs}).encode()).hexdigest()[:16]


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: the same inputs give the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


class Store:
    """A folder of finished stages, `KIND/KEY/`, each with its manifest.json."""

    def __init__(self, root: Path):
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"The store {root} cannot be made: {error.strerror}. Choose another with --store.") from None

    def folder(self, stage: Stage) -> Path:
        return self.root / stage.kind / stage.key

    def done(self, stage: Stage) -> bool:
        folder = self.folder(stage)
        if folder.parent.is_symlink() or folder.is_symlink() or (folder / "manifest.json").is_symlink():
            raise UserError(f"The stage {folder} is a link out of the store, which is not followed. Remove the link and run again.")
        return (folder / "manifest.json").is_file()

    def manifest(self, stage: Stage) -> dict[str, Any]:
        return self._read_manifest(self.folder(stage))

    def manifest_in(self, folder: Path) -> dict[str, Any]:
        """The manifest of the stage that a folder of this store holds."""
        return self._read_manifest(folder)

    def ensure(self, stage: Stage, wait: float = 0) -> Path:
        """The stage's folder, made now if it is not there. Work goes to a temporary name and is renamed when complete.

        `wait`: seconds that another process may still be making it.
        """
        final = self.folder(stage)
        if self.done(stage):
            self.verify(final)
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(str(final) + ".lock", timeout=wait):
                return self._make(stage, final)
        except Timeout:
            raise UserError(
                f"Another process is making {stage.label} in this store ({final}); wait for it, or use another store."
            ) from None
        except Exception as error:
            if _disk_full(error):
                raise UserError(
                    f"The disk is full: {stage.label} was not saved. Free some space and run again; nothing finished is lost."
                ) from None
            raise

    def scratch(self, stage: Stage) -> Path:
        """A folder that survives an interruption of this stage and goes away when it completes."""
        return self.root / ".scratch" / stage.key

    def entries(self) -> Iterator[tuple[str, str, dict[str, Any], int]]:
        """(kind, key, manifest, bytes) of every finished stage; one with a damaged manifest is named, and left out."""
        for folder in self._finished():
            try:
                manifest, size = self._read_manifest(folder), _size(folder)
            except (UserError, OSError) as error:
                _log.warning("Left out: %s", error)
                continue
            yield folder.parent.name, folder.name, manifest, size

    def finished(self, kind: str = "[!.]*") -> Iterator[dict[str, Any]]:
        """The manifests of finished stages, of one kind if it is named; damaged ones are left out."""
        for folder in self._finished(kind):
            try:
                yield self._read_manifest(folder)
            except UserError:
                continue

    def collect(self, keep: set[str], delete: bool, asked: Collection[str] = ()) -> list[tuple[Path, int]]:
        """What no plan in `keep` (keys) names, left-overs of interrupted stages, and answers of models that are gone; deleted if asked.

        What another process is working on stays, and so do answers of models that no stage makes, whose hashes are in `asked`.
        """
        out = []
        for path in sorted(path for pattern in COLLECTED for path in self.root.glob(pattern)):
            ours = path.is_dir() or path.is_symlink() or path.parent.name == ROWS
            if not ours or (path.parent != self.root and path.parent.is_symlink()) or self._wanted(path, keep, asked):
                continue
            with self._idle(path) as idle:
                if not idle:
                    continue
                out.append((path, _size(path)))
                if delete:
                    path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)
        return out

    def rows(self, model: str, asked_by: str) -> Path:
        """The side file of what a model (its stage's key) answered to a reader that `asked_by` describes."""
        return self.root / ROWS / f"{model}-{hashlib.sha256(asked_by.encode()).hexdigest()[:16]}.safetensors"

    def _finished(self, kind: str = "[!.]*") -> list[Path]:
        found = (f.parent for f in self.root.glob(f"{kind}/[!.]*/manifest.json"))
        return sorted(f for f in found if not f.is_symlink() and not f.parent.is_symlink())

    def _wanted(self, path: Path, keep: set[str], asked: Collection[str]) -> bool:
        """Whether something in the store belongs to a stage of `keep`; answers, whether they are of the model that is there now."""
        if path.parent == self.root:
            return any(time.time() - p.lstat().st_mtime < DAY for p in (path, *_files(path)))  # another process may be moving it
        if path.parent.name != ROWS:
            return path.name in keep
        if path.suffix == ".part":
            return time.time() - path.lstat().st_mtime < DAY  # another process may be writing it
        model = path.name.partition("-")[0]
        made = [f / "manifest.json" for f in self._finished() if f.name == model]
        if not made:
            return model in asked
        return model in keep and any(f.stat().st_mtime_ns <= path.lstat().st_mtime_ns for f in made)

    @contextmanager
    def _idle(self, path: Path) -> Iterator[bool]:
        """Whether no process is making the stage that something belongs to; none begins to while this is open."""
        key = path.name.removeprefix(".").removesuffix(".part").partition("-")[0]
        busy = [*self.root.glob(f"[!.]*/{key}.lock"), *self.root.glob(f"tuning/*-{key}.jsonl.busy")]
        with ExitStack() as held:
            try:
                for file in busy:
                    held.enter_context(FileLock(file, timeout=0))
            except Timeout:
                yield False
                return
            yield True

    def ensure_together(self, stage: Stage) -> None:
        """`ensure` under the launcher; every rank calls it. All take part in a parallel stage, and only the first rank writes."""
        if is_main():
            self.ensure(stage)
        elif stage.parallel:
            with tempfile.TemporaryDirectory() as folder:
                stage.build(Path(folder))
        from_first_rank(True)  # the others wait here until the folder is there

    def _make(self, stage: Stage, final: Path) -> Path:
        if self.done(stage):  # made by another process while this one waited
            return final
        part = final.with_name(f".{stage.key}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        reset_peak()
        began = time.perf_counter()
        facts = stage.build(part) or {}
        manifest = {
            "kind": stage.kind,
            "version": stage.version,
            "label": stage.label,
            "key": stage.key,
            "inputs": stage.inputs,
            "files": {str(f.relative_to(part)): _sha(f) for f in _files(part)},
            "seconds": round(time.perf_counter() - began, 2),
            "peak_memory_mb": memory("peak"),
            "work": {k: v for k, v in asdict(stage.work()).items() if v},
            **provenance(),
            **facts,
        }
        manifest["sha"] = _sha_of(json.loads(json.dumps(manifest)))  # of what a reader will find
        with (part / "manifest.json").open("w") as out:
            json.dump(manifest, out, indent=1, sort_keys=True)
            out.flush()
            os.fsync(out.fileno())
        read_only(part)
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        shutil.rmtree(self.scratch(stage), ignore_errors=True)
        return final

    def verify(self, folder: Path, at: tuple[str, str] | None = None) -> dict[str, Any]:
        """The manifest of a finished stage; what was changed, removed or added to is reported, not used.

        `at` is its (kind, key) where the folder does not stand at its place yet.
        """
        manifest = self._read_manifest(folder, at)
        listed = manifest["files"]
        there = {str(f.relative_to(folder)): f for f in _files(folder) if f != folder / "manifest.json"}
        wrong = [(n, "missing or changed") for n, sha in listed.items() if n not in there or there[n].is_symlink() or _sha(there[n]) != sha]
        wrong += [(n, "no file of this stage") for n in there if n not in listed]
        if wrong or not listed:
            name, what = wrong[0] if wrong else ("every file", "missing")
            raise UserError(f"The stage {folder} is damaged ({name} is {what}). Delete that folder and run again.")
        return manifest

    def _read_manifest(self, folder: Path, at: tuple[str, str] | None = None) -> dict[str, Any]:
        """A manifest that is as it was written, and stands where it was written."""
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            place = at or (folder.parent.name, folder.name)
            whole = manifest["sha"] == _sha_of(manifest) and (manifest["kind"], manifest["key"]) == place
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise UserError(
                f"The manifest of {folder} is damaged, it is not as it was written. Delete that folder and run again; "
                "other stages are kept."
            )
        return manifest


def _files(folder: Path) -> list[Path]:
    """What lies in a folder, links too, none of which is followed."""
    return sorted(f for f in folder.rglob("*") if f.is_symlink() or not f.is_dir())


def _size(path: Path) -> int:
    return sum(f.lstat().st_size for f in ([path] if path.is_symlink() or path.is_file() else _files(path)))


def _sha_of(manifest: dict[str, Any]) -> str:
    """Over all else that a manifest says."""
    return hashlib.sha256(canonical({k: v for k, v in manifest.items() if k != "sha"}).encode()).hexdigest()[:16]


def _sha(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


def _disk_full(error: Exception) -> bool:
    """No space left (28) or quota exceeded (122); safetensors gives the number only in its text."""
    return getattr(error, "errno", None) in (28, 122) or "(os error 28)" in str(error) or "(os error 122)" in str(error)
