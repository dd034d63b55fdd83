"""The content-addressed store: a stage's folder is named by the hash of its inputs, and existence means done."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .engine import agreed, is_main
from .errors import UserError
from .guard import read_only
from .metering import memory, reset_peak

LIBRARIES = ("torch", "transformers", "datasets", "lm_eval", "deepspeed")


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

    @property
    def key(self) -> str:
        return hashlib.sha256(canonical({"kind": self.kind, **self.inputs}).encode()).hexdigest()[:16]


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
        return (self.folder(stage) / "manifest.json").is_file()

    def manifest(self, stage: Stage) -> dict[str, Any]:
        return self._read_manifest(self.folder(stage))

    def run(self, stage: Stage) -> Path:
        """The stage's folder, made now if it is not there. Work goes to a temporary name and is renamed when complete."""
        final = self.folder(stage)
        if self.done(stage):
            self._verify(final)
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(str(final) + ".lock", timeout=0):
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
        """(kind, key, manifest, bytes) of every finished stage."""
        for file in sorted(self.root.glob("[!.]*/[!.]*/manifest.json")):
            size = sum(f.stat().st_size for f in file.parent.rglob("*") if f.is_file())
            yield file.parent.parent.name, file.parent.name, self._read_manifest(file.parent), size

    def collect(self, keep: set[str], delete: bool) -> list[tuple[Path, int]]:
        """Folders that no plan in `keep` (keys) names, and left-overs of interrupted stages; deleted if asked."""
        out = []
        for folder in sorted([*self.root.glob("[!.]*/*"), *self.root.glob(".scratch/*")]):
            if not folder.is_dir() or folder.name in keep:
                continue
            out.append((folder, sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())))
            if delete:
                shutil.rmtree(folder)
        return out

    def run_together(self, stage: Stage) -> None:
        """`run` under the launcher; every rank calls it. All take part in a parallel stage, and only the first rank writes."""
        if is_main():
            self.run(stage)
        elif stage.parallel:
            with tempfile.TemporaryDirectory() as folder:
                stage.build(Path(folder))
        agreed(True)  # the others wait here until the folder is there

    def _make(self, stage: Stage, final: Path) -> Path:
        if self.done(stage):  # made by another process while this one waited
            return final
        part = final.with_name(f".{stage.key}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        reset_peak()
        began = time.perf_counter()
        facts = stage.build(part) or {}
        files = {str(f.relative_to(part)): _sha(f) for f in sorted(part.rglob("*")) if f.is_file()}
        manifest = {
            "kind": stage.kind,
            "label": stage.label,
            "key": stage.key,
            "inputs": stage.inputs,
            "files": files,
            "seconds": round(time.perf_counter() - began, 2),
            "peak_memory_mb": memory("peak"),
            "versions": {name: version(name) for name in LIBRARIES},
            "work": {k: v for k, v in asdict(stage.work()).items() if v},
            **facts,
        }
        with (part / "manifest.json").open("w") as out:
            json.dump(manifest, out, indent=1, sort_keys=True)
            out.flush()
            os.fsync(out.fileno())
        read_only(part)
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        shutil.rmtree(self.scratch(stage), ignore_errors=True)
        return final

    def _verify(self, folder: Path) -> None:
        """A finished stage whose files were cut short or removed is reported, not used."""
        manifest = self._read_manifest(folder)
        for name, sha in manifest.get("files", {}).items():
            file = folder / name
            if not file.is_file() or _sha(file) != sha:
                raise UserError(f"The stage {folder} is damaged ({name} is missing or changed). Delete that folder and run again.")

    def _read_manifest(self, folder: Path) -> dict[str, Any]:
        try:
            return json.loads((folder / "manifest.json").read_text())
        except ValueError:
            raise UserError(f"The manifest of {folder} is damaged. Delete that folder and run again; other stages are kept.") from None


def _sha(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


def _disk_full(error: Exception) -> bool:
    """No space left (28) or quota exceeded (122); safetensors gives the number only in its text."""
    return getattr(error, "errno", None) in (28, 122) or "(os error 28)" in str(error) or "(os error 122)" in str(error)
