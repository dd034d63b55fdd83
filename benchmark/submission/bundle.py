"""A bundle: one zip file with all that a row was made of, but for the weights, which it may hold too.

bundle.json   what is in it: this module's `Info`, with the hash of every other file
entry.json    the row as the author claims it, as it would be published
card.md       the same for people
config.yaml   the resolved suite, for people (verifiers read it in the entry)
lock.txt      the packages that were installed
method/…      the source of a method of one's own, laid out as it is imported
stages/…      the store's stages of this row, KIND/KEY/…, without the weights of models
weights/…     optionally SEED/model.safetensors of the method's models; of those composed of parts, SEED/PART/model.safetensors
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from ...leaderboard.entry import Date, Entry, Verified, entry_from
from ..common.archive import Archive, Limits, RefusedError, write_archive
from ..common.errors import UserError
from ..common.limits import PLAIN_WORD, SOME, CountOrZero, one_of
from ..common.plugins import RESERVED
from ..common.strict import parse, typed, written
from ..running.store import Store

SCHEMA = 1
INFO, ENTRY, CARD, CONFIG, LOCK = "bundle.json", "entry.json", "card.md", "config.yaml", "lock.txt"
METHOD, STAGES, WEIGHTS = "method", "stages", "weights"
MODEL = "model.safetensors"  # the file of a model's weights
MODELS = ("held", "twin", "method")  # kinds of stages whose weights stay out
PARTS = "[a-z]{1,20}(/[a-z]{1,20}){0,2}"  # of a model that is composed of others: baseline, or inner/baseline
LARGEST = {INFO: 8 << 20, ENTRY: 16 << 20}  # bytes
LIMITS = Limits()


@dataclass(frozen=True)
class FileOf:
    """What a file of the bundle should be."""

    sha256: str
    bytes: CountOrZero


@dataclass(frozen=True)
class MethodOf:
    """The method as stages know it. `module` and `file` (in `method/`) are empty for one of the repository."""

    name: Annotated[str, PLAIN_WORD]
    source: str  # hash of its code
    fields: dict[str, Any]
    reads: dict[str, str] = field(default_factory=dict)  # what keys hold of files that it declares to read
    module: str = ""
    file: str = ""
    attribute: str = ""  # its class
    package: str = ""  # name==version, if it is installed

    def __post_init__(self) -> None:
        stem = self.module.replace(".", "/") if self.module else self.file.removesuffix(".py")
        fits = self.file in (f"{stem}.py", f"{stem}/__init__.py") and (self.module or "/" not in self.file)
        if self.file and not fits:
            raise UserError(f"file {self.file!r} is not where the module {self.module!r} lies.")
        if self.file and self.name in RESERVED["method"]:
            raise UserError(f"{self.name!r} is the name of a reference, which no other method can have.")
        if not self.file and self.module:
            raise UserError(f"the module {self.module!r} has no file.")


@dataclass(frozen=True)
class Info:
    """bundle.json."""

    schema: int
    made: Date
    palimpsest: str  # version
    suite: str
    track: str
    method: MethodOf
    seeds: Annotated[tuple[int, ...], SOME]
    device: Annotated[str, one_of("cpu", "cuda")]
    precision: Annotated[str, one_of("fp32", "bf16")]  # of training
    weights: dict[str, str]  # SEED or SEED/PART -> sha256 of the method's model.safetensors
    hub: str  # REF@REVISION with SEED/model.safetensors (SEED/PART/…) in it, or nothing
    files: dict[str, FileOf]

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise UserError(f"schema {self.schema}; expected {SCHEMA}. Use the version of palimpsest that wrote it ({self.palimpsest}).")


@dataclass(frozen=True)
class Bundle:
    """A bundle that was unpacked; nothing in it is believed yet."""

    file: Path
    sha256: str
    folder: Path
    info: Info
    entry: Entry

    @property
    def store(self) -> Store:
        """Its stages as a store."""
        return Store(self.folder / STAGES)

    def weights(self, key: str) -> Path | None:
        """The weights of the method's model of a seed, or of a part of it (SEED/PART), if it holds them."""
        file = self.folder / WEIGHTS / key / MODEL
        return file if file.is_file() else None

    def told_weights(self, seed: int) -> dict[str, str]:
        """Part ("" where the model is one) -> sha256 of its weights, as bundle.json tells."""
        return {part: sha for key, sha in self.info.weights.items() for s, _, part in [key.partition("/")] if s == str(seed)}


@contextmanager
def opened(file: Path, limits: Limits = LIMITS) -> Iterator[Bundle]:
    """A bundle unpacked into a folder that goes away; `RefusedError` for what is no bundle, before anything else of it is read."""
    with Archive(file, limits) as archive, tempfile.TemporaryDirectory(prefix="palimpsest-bundle-") as name:
        try:
            info = typed(Info, parse(archive.read(INFO, LARGEST[INFO]), INFO), INFO)
            entry = entry_from(archive.read(ENTRY, LARGEST[ENTRY]), ENTRY)
        except RefusedError:
            raise
        except UserError as error:
            raise RefusedError(f"{file}: {error}") from None
        archive.unpack(Path(name))
        (Path(name) / STAGES).mkdir(exist_ok=True)
        yield Bundle(file, sha256_of(file), Path(name), info, entry)


def verified(bundle: Bundle, level: str, by: str) -> Entry:
    """The entry as it is published by somebody for whom everything up to this level agreed: so its numbers were recomputed."""
    today = datetime.now(UTC).date().isoformat()
    return replace(bundle.entry, verified=Verified(level, today, by, bundle.sha256, bundle.entry.claimed))


def write_bundle(to: Path, info: Mapping[str, Any], content: Mapping[str, bytes | Path]) -> Info:
    """Write a bundle of these files; `info` gives the fields of `Info` but for the schema and the files' hashes."""
    files = {name: FileOf(*_measured(source)) for name, source in sorted(content.items())}
    made = Info(schema=SCHEMA, files=files, **info)
    write_archive(to, {**content, INFO: written(made).encode()})
    return made


def weights_in(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Part ("" where the model is one) -> hash of its weights (16 digits), from the manifest of a stage that made a model."""
    found = {name.removesuffix(MODEL).removesuffix("/"): sha for name, sha in manifest["files"].items() if Path(name).name == MODEL}
    if odd := [part for part in found if part and not re.fullmatch(PARTS, part)]:
        raise UserError(f"{odd[0][:60]!r} is no part of a model")
    return found


def hashes(weights: Mapping[str, str]) -> str:
    """Hashes of weights by part, in words."""
    return ", ".join(f"{part} {sha[:16]}".strip() for part, sha in sorted(weights.items())) or "none"


def weights_key(seed: int, part: str) -> str:
    """Under which name bundle.json, entries and hubs have weights."""
    return f"{seed}/{part}" if part else str(seed)


def sha256_of(file: Path) -> str:
    """The whole SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _measured(source: bytes | Path) -> tuple[str, int]:
    if isinstance(source, Path):
        return sha256_of(source), source.stat().st_size
    return hashlib.sha256(source).hexdigest(), len(source)
