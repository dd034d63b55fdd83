"""One row of a leaderboard as one reviewable JSON file: what was claimed, what was verified, and all that the board shows of it.

Plain data without torch. An entry is read strictly, since anyone may send one, and written so that the same entry gives the same bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from ..benchmark.common.errors import UserError, unknown
from ..benchmark.common.frozen import MadeFrom
from ..benchmark.common.limits import PLAIN_WORD, SOME, Bound, CountOrZero, Part, one_of
from ..benchmark.common.strict import parse, typed, written
from ..benchmark.common.types import HELD, HORIZON
from .entry_values import Lengths, Number, Values

SCHEMA = 1
LEVELS = ("schema", "rescore", "spotcheck", "retrain")  # of verification, each includes those before
LINK, DATE = r"(https?://[^\s<>\"'`]+)?", r"\d{4}-\d\d-\d\d"
OF_REFERENCES = {HELD: (), "retrain": ("history without forget",)}  # what these may see: names that no other method can have
Link = Annotated[str, Bound("an address that begins with https:// or http://, or nothing", lambda v: bool(re.fullmatch(LINK, v)))]
Date = Annotated[str, Bound("a date such as 2026-11-30", lambda v: bool(re.fullmatch(DATE, v)))]
Track = Annotated[str, Bound("a plain word, or nothing", lambda v: not v or PLAIN_WORD.holds(v))]


@dataclass(frozen=True)
class Verified:
    """What somebody found who did not have to believe the author."""

    level: Annotated[str, one_of(*LEVELS)]
    date: Date
    by: str
    bundle: str  # sha256 of the file
    values: Values


@dataclass(frozen=True)
class Hashes:
    """What the row was made from: 16 hexadecimal digits of the stages' keys, sha256 of weights."""

    base: str
    corpus: str
    memories: str
    tokenizer: str
    source: str  # of the method's code
    models: dict[str, str] = field(default_factory=dict)  # seed -> key of the stage that made the model
    weights: dict[str, str] = field(default_factory=dict)  # seed (SEED/PART of a composed model) -> sha256 of model.safetensors
    deepspeed: str = ""  # of the DeepSpeed setting's file


@dataclass(frozen=True)
class Versions:
    """Of the code that made the row. `kinds` are those in keys of stages."""

    palimpsest: str
    commit: str | None
    dirty: bool | None
    kinds: dict[str, int]
    libraries: dict[str, str]
    attacks: dict[str, str] = field(default_factory=dict)  # attack -> hash of its code and of the files that it reads


@dataclass(frozen=True)
class Machine:
    """Where models were trained and read."""

    device: str
    precision: str  # of training
    threads: CountOrZero = 0


@dataclass(frozen=True)
class Spent:
    """What the method took in one seed; null: not measured."""

    seed: int
    seconds: float | None
    tokens: int
    flops: float | None = None
    peak_mib: float | None = None


@dataclass(frozen=True)
class OfSeed:
    """Matched lengths of one seed, a list per attack in the order of `forget`, best over variants."""

    seed: int
    forget: tuple[str, ...]  # ids
    lengths: dict[str, Lengths]  # attack -> tokens
    opening: Lengths  # after the exact opening
    held: Lengths  # the same on the held model: what it does not repeat whole counts in no leak
    twin: dict[str, Lengths]  # access level -> the twin's longest match over attacks up to it
    keep: tuple[str, ...] = ()  # ids of hidden keep memories
    keep_lengths: Lengths = ()  # after the exact opening
    keep_held: Lengths = ()  # the same on the held model

    def __post_init__(self) -> None:
        of_forget = {"opening": self.opening, "held": self.held} | self.lengths | {f"twin.{k}": v for k, v in self.twin.items()}
        of_keep = {"keep_lengths": self.keep_lengths, "keep_held": self.keep_held}
        for ids, lists in ((self.forget, of_forget), (self.keep, of_keep)):
            if len(set(ids)) < len(ids):
                raise UserError(f"memories of seed {self.seed}: an id stands twice.")
            for name, values in lists.items():
                if len(values) != len(ids):
                    raise UserError(f"memories of seed {self.seed}: {name} has {len(values)} lengths for {len(ids)} memories.")
                if odd := [v for v in values if v is not None and not 0 <= v <= HORIZON]:
                    raise UserError(f"memories of seed {self.seed}: {name} has the length {odd[0]}; expected 0 to {HORIZON} tokens.")


@dataclass(frozen=True)
class Memories:
    """What came back of each memory."""

    attacks: dict[str, str]  # attack -> access level
    diagnostics: tuple[str, ...]  # attacks that stay outside the worst case
    thresholds: dict[str, dict[str, float]]  # access level -> attack -> tokens that a match must exceed; empty without enough null
    by_seed: tuple[OfSeed, ...]


@dataclass(frozen=True)
class Evaluation:
    """What a method with early stopping measured of its model after so many steps."""

    seed: int
    step: CountOrZero
    exact: Part | None  # share of the forget memories that come back whole
    held_out: float | None  # nats per token of ordinary text


@dataclass(frozen=True)
class Text:
    """One memory read back with the exact opening. `said`: base, none (the held model), twin, and the method."""

    memory: str
    role: str
    seed: int
    prompt: str
    truth: str
    said: dict[str, str]


@dataclass(frozen=True)
class Point:
    """One strength of the method on its operating curve."""

    field: str  # that was turned
    value: float
    tokens: Number  # worst-case matched length of the curve's battery
    leak: Number  # share, of the weakest attacker
    damage: Number  # %
    collateral: Number  # points


@dataclass(frozen=True, kw_only=True)
class About:
    """What an entry says beyond its results."""

    name: Annotated[str, PLAIN_WORD]
    track: Track
    paper: Link
    code: Link
    date: Date
    config: dict[str, Any]  # the resolved suite
    hashes: Hashes
    versions: Versions
    machine: Machine
    saw: tuple[str, ...]  # what the method may have seen: forget, shown, retain, history; nothing that was watched while it ran
    tuned_on: str = ""
    package: str = ""  # name==version of an installed method
    frozen: str = ""  # sha256 of the record of its track, if that was frozen when the row was bundled
    curve: tuple[Point, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Entry(About):
    """One row of the leaderboard."""

    schema: int
    method: str
    doc: str
    seeds: Annotated[tuple[int, ...], SOME]
    claimed: Values
    memories: Memories
    cost: tuple[Spent, ...]
    trajectory: tuple[Evaluation, ...]
    excerpts: tuple[Text, ...]
    verified: Verified | None = None

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise UserError(f"entry {self.name}: schema {self.schema}; expected {SCHEMA}. Use the version of palimpsest that wrote it.")
        if tuple(m.seed for m in self.memories.by_seed) != self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"entry {self.name}: its memories are not those of its seeds {list(self.seeds)}, each once and in this order.")
        for of in self.memories.by_seed:
            if strange := of.lengths.keys() - self.memories.attacks.keys():
                raise UserError(f"entry {self.name}: {unknown('attack', min(strange), self.memories.attacks)}")

    @property
    def may_see(self) -> str:
        """`saw` in words. Entries from before 27 November 2026 tell of the two references what they were handed and left alone."""
        return ", ".join(OF_REFERENCES.get(self.method, self.saw)) or "nothing"

    @property
    def made_from(self) -> MadeFrom:
        """What it says that it was made from, beside its method."""
        h, v = self.hashes, self.versions
        inputs = self.config, h.base, h.corpus, h.memories, h.tokenizer, h.deepspeed, self.machine.precision
        return MadeFrom(*inputs, v.kinds, v.libraries, v.attacks)

    def as_json(self) -> str:
        """The file's content."""
        return written(self)


def entry_from(text: str | bytes, where: str = "entry") -> Entry:
    """The entry that `as_json` wrote; whatever else is refused by name. `where` begins the message."""
    return typed(Entry, parse(text, where), where)


def read_entry(file: Path) -> Entry:
    """The entry of a file."""
    return entry_from(file.read_bytes(), str(file))
