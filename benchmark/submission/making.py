"""Makes a bundle of a row whose stages are done, and says beforehand what would be refused."""

from __future__ import annotations

import datetime
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from ...leaderboard.entry import DATE, LINK, OF_REFERENCES, Entry, Point
from ...leaderboard.entry_of import points_of
from ...leaderboard.tables import main_table
from ..common.archive import odd_name
from ..common.errors import UserError
from ..common.limits import PLAIN_WORD
from ..common.plugins import find
from ..common.sources import NAME
from ..common.types import HELD
from ..running.assemble import results
from ..running.plan import Run
from ..running.provenance import provenance
from ..running.store import Stage
from ..suites.config import Suite
from ..suites.frozen import deviations, differences, drifted, plain_config
from ..suites.tracks import tuned
from .bundle import CARD, CONFIG, ENTRY, LIMITS, LOCK, METHOD, MODEL, MODELS, STAGES, WEIGHTS, Info, MethodOf, sha256_of, write_bundle
from .card import card, config
from .row import DISTRIBUTION, Reference, Row, entry_in, inputs_of, own_files, weights_of

REVISION = re.compile(r"(?P<ref>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})")
CHEAP = ("excerpts",)  # kinds of stages that are made on the way: a run of several methods has others than a row


@dataclass(frozen=True)
class Said:
    """What only the author knows."""

    name: str
    paper: str
    code: str
    tuned_on: str = ""
    weights: bool = False  # the bundle holds them
    hub: str = ""  # or they are there
    curve: tuple[Point, ...] = ()  # at several strengths
    frozen: str = ""  # sha256 of the record of the track, if it is frozen
    today: str = ""

    @property
    def date(self) -> str:
        return self.today or datetime.date.today().isoformat()


def problems(row: Row, told: MethodOf, said: Said, reference: Reference) -> Iterator[str]:
    """Everything for which a bundle of this row would be refused and that can be known without running a stage."""
    yield from _said(said)
    yield from _inputs(row, reference)
    yield from (
        f"attack {a.name} comes from outside the repository, so nobody else can ask with it" for a in row.who.attacks if _outside(a.plugin)
    )
    if not row.corpus.comparable:
        yield f"corpus: only {row.corpus.coverage:.1%} of it is installed here"
    if told.file:
        yield from _source(row)
    yield from _code(row)
    yield from _sizes(row, said)


def missing(row: Row) -> list[Stage]:
    """The stages that must be run before there is a bundle."""
    return [s for s in row.plan if not row.store.done(s) and s.kind not in CHEAP]


def make(row: Row, told: MethodOf, said: Said, to: Path) -> tuple[Info, Entry]:
    """Write the bundle of a row whose stages are done."""
    for stage in row.plan:
        if not row.store.done(stage):
            row.store.ensure(stage)
    hashes = {key: sha256_of(file) for key, file in weights_of(row).items()}
    only: dict[str, Any] = {"name": said.name, "track": row.suite.track, "paper": said.paper, "code": said.code, "date": said.date}
    only |= {"saw": saw(row, told), "tuned_on": said.tuned_on or _tuned_on(row), "curve": said.curve, "frozen": said.frozen}
    entry, _ = entry_in(row, told, only, hashes)
    content: dict[str, bytes | Path] = {
        ENTRY: entry.as_json().encode(),
        CARD: card(entry).encode(),
        CONFIG: config(entry).encode(),
        LOCK: lock().encode(),
        **_stages(row),
    }
    if told.file:
        content |= {f"{METHOD}/{name}": file for name, file in own_files(row.methods[told.name][0])[1].items()}
    if said.weights:
        content |= {f"{WEIGHTS}/{key}/{MODEL}": file for key, file in weights_of(row).items()}
    info = {
        "made": said.date, "palimpsest": version(DISTRIBUTION), "suite": row.suite.name, "track": row.suite.track, "method": told,
        "seeds": tuple(row.suite.seeds), "device": entry.machine.device.partition(" ")[0], "precision": entry.machine.precision,
        "weights": hashes, "hub": said.hub,
    }  # fmt: skip
    return write_bundle(to, info, content), entry


def curve_of(suite: Suite, row: Row, asked: str) -> tuple[Point, ...]:
    """The row's method at the strengths of a suite whose run is finished in the same store."""
    fields = row.suite.methods[row.method]
    found = results(Run(replace(suite, methods={HELD: {}, asked: dict(fields)}), row.store))
    return points_of(found, main_table(found), asked)


def saw(row: Row, told: MethodOf) -> tuple[str, ...]:
    """What the method may see. Nobody watches while it runs: of a method of the repository it is what that declares.

    One of a stranger's is handed all texts, and the held model's history where it asks for it, whatever it makes of them.
    """
    if row.method in OF_REFERENCES:
        return OF_REFERENCES[row.method]
    plugin, instance = row.methods[row.method]
    retain = bool(told.file) or getattr(plugin.cls, "uses_retain", True)
    shown = bool(told.file) or (retain and getattr(instance, "shown_share", 1.0) > 0)
    allowed = {"forget": True, "shown": shown, "retain": retain, "history": getattr(plugin.cls, "needs_history", False)}
    return tuple(what for what, may in allowed.items() if may)


def lock() -> str:
    """The installed packages, as pip takes them."""
    places = sysconfig.get_paths()  # not sys.path, to which some packages add their own vendored ones when they are imported
    installed = distributions(path=list(dict.fromkeys((places["purelib"], places["platlib"]))))
    found = {f"{d.metadata['Name']}=={d.version}" for d in installed if d.metadata["Name"]}
    return "\n".join(sorted(found, key=lambda name: (name.lower(), name))) + "\n"


def _said(said: Said) -> Iterator[str]:
    if not PLAIN_WORD.holds(said.name):
        yield f"--name {said.name!r}: expected {PLAIN_WORD.says}"
    for option, value in (("--paper", said.paper), ("--code", said.code)):
        if not re.fullmatch(LINK, value):
            yield f"{option} {value!r}: expected an address that begins with https:// or http://"
    if said.hub and not REVISION.fullmatch(said.hub):
        yield f"--hub {said.hub!r}: expected OWNER/NAME@REVISION with the 40 digits of a commit, since a branch can move"
    if said.hub and said.weights:
        yield "--weights and --hub: choose one"
    if not re.fullmatch(DATE, said.date):
        yield f"date {said.date!r}: expected a date such as 2026-11-30"


def _inputs(row: Row, reference: Reference) -> Iterator[str]:
    """In what the row is made from something else than its reference; of a frozen track also what drifted from it here."""
    if record := reference.frozen:
        yield from (f"frozen track {record.track}: {d}" for d in differences(record, inputs_of(row)))
        yield from (f"this checkout's track {record.track} is not as it was frozen: {d}" for d in drifted(record))
        return
    name, mine, theirs = reference.suite.name, plain_config(row.suite), plain_config(reference.suite)
    yield from (f"suite: {d}. A row is held against {name} as it stands" for d in deviations(mine, theirs))


def _source(row: Row) -> Iterator[str]:
    root, files = own_files(row.methods[row.method][0])
    for name, file in files.items():
        if why := odd_name(name):
            yield f"the method's file {file}: {why}"
        if file.stat().st_size > 1 << 20:
            yield f"the method's file {file} has more than a mebibyte"
    if row.methods[row.method][0].read_by(row.methods[row.method][1]):
        yield f"the method reads files of its own (reads()), which a bundle does not hold; write what is in them into its source in {root}"


def _code(row: Row) -> Iterator[str]:
    """Code that nobody else has, now or when stages were made."""
    now = provenance()
    if now["commit"] is None:
        yield "this code is no checkout of the repository, so nobody knows which code it is: run from one"
    made = {s.label: row.store.manifest(s) for s in row.plan if row.store.done(s)}
    dirty = [label for label, m in made.items() if m.get("dirty") is not False]
    if dirty:
        more = f" and {len(dirty) - 1} more" if dirty[1:] else ""
        yield f"made by code with changes of its own, or of an unknown version: {dirty[0]}{more}. Commit them, and run these again"
    elif now["dirty"]:
        yield "this checkout has changes of its own: commit them before you run"


def _sizes(row: Row, said: Said) -> Iterator[str]:
    """What a bundle would hold, so far as it is there."""
    sizes = [f.stat().st_size for f in _stages(row, done=True).values() if isinstance(f, Path)]
    if said.weights:
        sizes += [f.stat().st_size for f in weights_of(row).values()]
    if len(sizes) > LIMITS.files - 100:
        yield f"{len(sizes):,} files; expected at most {LIMITS.files:,}"
    if sizes and max(sizes) > LIMITS.file:
        yield f"a file of {max(sizes):,} bytes; expected at most {LIMITS.file:,}. Name weights by --hub"
    if sum(sizes) > LIMITS.whole:
        yield f"{sum(sizes):,} bytes in all; expected at most {LIMITS.whole:,}. Name weights by --hub"


def _stages(row: Row, done: bool = False) -> dict[str, bytes | Path]:
    """Place in the bundle -> file, of all stages (those that are done), without the weights of models."""
    found: dict[str, bytes | Path] = {}
    for stage in row.plan:
        if done and not row.store.done(stage):
            continue
        folder = row.store.folder(stage) if done else row.store.ensure(stage)  # which checks the files
        for file in sorted(f for f in folder.rglob("*") if f.is_file()):
            if not (stage.kind in MODELS and file.name == MODEL):
                found[f"{STAGES}/{stage.kind}/{stage.key}/{file.relative_to(folder)}"] = file
    return found


def _tuned_on(row: Row) -> str:
    track = row.suite.track
    return f"the tuning of the track {track} (configs/tracks/{track}.yaml)" if track and row.method in tuned(track) else ""


def _outside(plugin: Any) -> bool:
    return not plugin.cls.__module__.startswith(f"{NAME}.")


def broken_rules(row: Row, asked: str, cheap: bool) -> Iterator[str]:
    """What `palimpsest check` says of a method of one's own. It trains small models: `cheap` leaves out the rules that take minutes."""
    from ..conformance.attacks import SUITE
    from ..conformance.methods import check_method, trial_of
    from ..suites.config import load_suite

    plugin = find("method", asked)
    run = Run(load_suite(SUITE), row.store, row.progress)
    given = dict(row.suite.methods[row.method])
    try:
        for rule in check_method(asked, given, trial_of(run, getattr(plugin.cls, "needs_history", False)), cheap):
            if not rule.kept:
                yield f"the method breaks the rule {rule.name!r}: {rule.seen}"
    except UserError as error:
        yield f"the method could not be checked: {error}"
