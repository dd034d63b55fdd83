"""A published track, frozen: what all of its rows are made from, in one small record with its own SHA-256. Plain data."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from .errors import UserError
from .strict import parse, typed, written

SCHEMA = 1


@dataclass(frozen=True)
class MadeFrom:
    """What a row is made from, beside its method. Hashes have 16 hexadecimal digits, as in keys of stages."""

    suite: dict[str, Any]  # as resolved
    base: str  # the base model
    corpus: str
    memories: str
    tokenizer: str
    deepspeed: str  # what the file of the setting says
    precision: str  # of training
    kinds: dict[str, int]  # versions of the code that makes stages
    libraries: dict[str, str]
    attacks: dict[str, str]  # attack -> hash of its code and of the files that it reads


@dataclass(frozen=True)
class Frozen:
    """The record of a track. `commit` is of the code that froze it: later code makes rows too, if its stages have these versions."""

    schema: int
    track: str
    date: str
    commit: str
    inputs: MadeFrom
    tuned: dict[str, dict[str, Any]]  # method -> the fields that were chosen for the track
    sha256: str  # of all other fields, written as in the file

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise UserError(f"schema {self.schema}; expected {SCHEMA}. Use the version of palimpsest that wrote it.")

    def as_json(self) -> str:
        """The file's content."""
        return written(self)


def frozen(track: str, date: str, commit: str, inputs: MadeFrom, tuned: dict[str, dict[str, Any]]) -> Frozen:
    """A new record."""
    told = {"schema": SCHEMA, "track": track, "date": date, "commit": commit, "inputs": asdict(inputs), "tuned": tuned}
    return Frozen(SCHEMA, track, date, commit, inputs, tuned, _sha256(told))


def frozen_from(text: str | bytes, where: str) -> Frozen:
    """The record that `as_json` wrote. One that was edited since has another hash than it names, and is refused."""
    found = typed(Frozen, parse(text, where), where)
    told = asdict(found)
    if told.pop("sha256") != _sha256(told):
        raise UserError(
            f"{where} was changed after it was written: its SHA-256 is not the one that it names. "
            "A frozen track stays as it is; a changed one needs a name of its own."
        )
    return found


def _sha256(told: dict[str, Any]) -> str:
    return hashlib.sha256(written(told).encode()).hexdigest()
