"""Makes the row of an entry again, from its configuration and a method that is at hand, in a store of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ...leaderboard.entry import About, Entry, read_entry
from ...leaderboard.reproduction import Reproduction, reproduction
from ..common.errors import UserError
from ..common.fields import build
from ..common.plugins import names
from ..common.versions import VERSIONS
from ..running.store import Store
from ..suites.config import Suite
from ..texts.memories import memories_hash
from .bundle import MethodOf, sha256_of
from .row import Row, entry_in, own_row, weights_of

SAID = ("name", "track", "paper", "code", "date", "saw", "tuned_on")  # what only the author knows


@dataclass(frozen=True)
class Asked:
    """Which entry, of which of its seeds (none: all), with the method from where, in which precision ("": as the entry says)."""

    entry: Path
    seeds: tuple[int, ...] = ()
    method: str = ""
    precision: str = ""


def bound(asked: Asked, store: Path) -> tuple[Row, MethodOf, Entry]:
    """The row of an entry, bound to a store. What cannot be made again here is a `UserError`."""
    if not asked.entry.is_file():
        raise UserError(f"There is no entry {asked.entry}; expected leaderboard/entries/TRACK/NAME.json.")
    entry = read_entry(asked.entry)
    if strange := [s for s in asked.seeds if s not in entry.seeds]:
        raise UserError(f"--seed {strange[0]}: the entry has the seeds {', '.join(map(str, entry.seeds))}.")
    suite = build(Suite, entry.config, f"{asked.entry}, config")
    where = asked.method or entry.method
    if not asked.method and entry.method not in (*names("method"), "none", "retrain"):
        package = f", of the package {entry.package}" if entry.package else f"; its code: {entry.code}" if entry.code else ""
        raise UserError(f"The method {entry.method} is not in this installation{package}. Say where it is: --method ./FILE.py:CLASS.")
    fields = suite.methods.get(entry.method, {})
    chosen = {"seeds": asked.seeds or entry.seeds, "precision": asked.precision or entry.machine.precision, "methods": {where: fields}}
    row, told = own_row(replace(suite, **chosen), where, Store(store))
    for what, mine, theirs in (
        ("base model", row.base.hash, entry.hashes.base),
        ("tokenizer", row.base.encoding, entry.hashes.tokenizer),
        ("memories", memories_hash(row.memories), entry.hashes.memories),
    ):
        if mine != theirs:
            raise UserError(f"The {what} of the entry has the hash {theirs}, and {mine} here; so it is another row.")
    return row, told, entry


def unlike(row: Row, told: MethodOf, entry: Entry) -> Iterator[str]:
    """What is another thing here than it was there, known before anything is made."""
    if told.source != entry.hashes.source:
        yield f"the code of the method {told.name}: {entry.hashes.source} in the entry, {told.source} here"
    if row.corpus.key != entry.hashes.corpus:
        yield f"the corpus: {entry.hashes.corpus} in the entry, {row.corpus.key} here"
    if row.precision != entry.machine.precision:
        yield f"the precision: {entry.machine.precision} in the entry, {row.precision} here"
    for kind, version in VERSIONS.items():
        if entry.versions.kinds.get(kind) != version:
            yield f"the code that makes stages of the kind {kind}: version {entry.versions.kinds.get(kind)} in the entry, {version} here"


def reproduced(row: Row, told: MethodOf, entry: Entry) -> Reproduction:
    """The comparison, once all stages are done."""
    said = {name: getattr(entry, name) for name in About.__dataclass_fields__ if name in SAID}
    files = {seed: sha256_of(file) for seed, file in weights_of(row).items() if file.is_file()}
    return reproduction(entry, entry_in(row, told, said, files)[0])
