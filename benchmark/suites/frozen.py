"""Frozen tracks: configs/tracks/TRACK.frozen.json says from what every row of a published track is made, and nothing changes it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..common.errors import UserError
from ..common.fields import build, plain
from ..common.frozen import Frozen, MadeFrom, frozen_from
from . import tracks
from .config import Suite, load_suite, suite_names

END = ".frozen.json"
APART = ("name", "doc", "methods", "precision", "track", "strengths")  # fields of a suite in which rows of one track may differ
ORDERED = ("attacks", "reasked")  # of which the order is part of what a stage is
HASHES = {"base": "base model", "corpus": "corpus", "memories": "memories", "tokenizer": "tokenizer", "deepspeed": "DeepSpeed setting"}
NEW_NAME = (
    "A frozen track stays as it is: give the changed one a name of its own, for example {track}-2 "
    "(configs/suites/{track}-2.yaml with `track: {track}-2`, and configs/tracks/{track}-2.yaml)."
)


def record_of(track: str) -> Frozen | None:
    """The record of a track; nothing for one that is not frozen."""
    file = tracks.TRACKS / f"{track}{END}"
    if not track or not file.is_file():
        return None
    found = frozen_from(file.read_bytes(), str(file))
    if found.track != track:
        raise UserError(f"{file} is the record of the track {found.track!r}.")
    return found


def records() -> dict[str, Frozen]:
    """Track -> its record, of all frozen ones."""
    names = sorted(f.name.removesuffix(END) for f in tracks.TRACKS.glob(f"*{END}"))
    return {name: record for name in names if (record := record_of(name))}


def freeze(record: Frozen) -> Frozen:
    """Write the record of a track, or find that it is frozen from the same already; what differs from a frozen one is refused."""
    there = record_of(record.track)
    if there is None:
        (tracks.TRACKS / f"{record.track}{END}").write_text(record.as_json(), "utf-8", newline="\n")
        return record
    changed = [*differences(there, record.inputs), *retuned(there, record.tuned)]
    if changed:
        raise UserError(
            f"The track {record.track} is frozen ({there.date}). Here {'; '.join(changed)}. {NEW_NAME.format(track=record.track)}"
        )
    return there


def suite_of(record: Frozen) -> Suite:
    """The suite that rows of the track are made with, in its precision."""
    return build(Suite, record.inputs.suite | {"precision": record.inputs.precision}, f"the frozen track {record.track}")


def refusals(record: Frozen, named: str, made: MadeFrom) -> Iterator[str]:
    """Why a row is none of this track: the hash of the record that it names, and in what it was made from something else."""
    if named != record.sha256:
        said = f"the record {named[:16]}" if named else "no record, as rows do that were bundled before the track was frozen"
        yield f"it names {said}; the track {record.track} is frozen as {record.sha256[:16]}. Bundle it again"
    yield from differences(record, made)


def differences(record: Frozen, made: MadeFrom) -> Iterator[str]:
    """In what a row, or what is installed here, is made from something else than a track's record tells."""
    told = record.inputs
    try:
        mine, theirs = (plain_config(build(Suite, config, "its suite")) for config in (made.suite, told.suite))
        yield from (f"suite: {d}" for d in deviations(mine, theirs))
    except UserError as error:
        yield str(error)
    for name, words in HASHES.items():
        if (a := getattr(made, name)) != (b := getattr(told, name)):
            yield f"{words}: {a or 'not told'}, not {b}"
    if made.precision != told.precision:
        yield f"precision: {made.precision}, not {told.precision} (run with precision={told.precision})"
    yield from _each("version of the stage", made.kinds, told.kinds)
    yield from _each("library", *(_releases(of.libraries) for of in (made, told)))
    yield from _each("code of the attack", made.attacks, told.attacks)


def retuned(record: Frozen, tuned: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Methods whose fields for the track are others than when it was frozen; methods that came later may be added."""
    return [
        f"tuned fields of {method}: {_short(dict(tuned.get(method, {})))}, not {_short(fields)}"
        for method, fields in record.tuned.items()
        if dict(tuned.get(method, {})) != fields
    ]


def drifted(record: Frozen) -> list[str]:
    """In what the shipped suite and the tuned fields of a frozen track are no longer what was frozen."""
    if record.track not in suite_names():
        return [f"there is no suite {record.track} any more"]
    shipped = deviations(plain_config(load_suite(record.track)), plain_config(suite_of(record)))
    return [*(f"suite: {d}" for d in shipped), *retuned(record, tracks.tuned(record.track))]


def deviations(mine: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """In what a suite (as `plain_config` gives it) is not its reference; name, texts and methods do not count."""
    out: list[str] = []
    for key, value in reference.items():
        own = mine[key]
        if key in ORDERED and own == value and list(own) != list(value):
            out.append(f"{key}: in another order ({', '.join(own)}), which makes other stages")
        if key in APART or own == value:
            continue
        if isinstance(value, dict):
            out += [f"{key}.{k}: {_short(own.get(k))}, not {_short(value.get(k))}" for k in {**value, **own} if own.get(k) != value.get(k)]
        else:
            out.append(f"{key}: {_short(own)}, not {_short(value)}")
    return out


def plain_config(suite: Suite) -> dict[str, Any]:
    """A resolved suite as JSON values."""
    return json.loads(json.dumps(plain(suite)))


def _releases(libraries: Mapping[str, str]) -> dict[str, str]:
    """Versions without what names a build (2.13.0+cpu), and of Python what decides which packages fit (3.12)."""

    def release(name: str, version: str) -> str:
        return ".".join(version.split(".")[:2]) if name == "python" else version.partition("+")[0]

    return {name: ", ".join(dict.fromkeys(release(name, v) for v in of.split(", "))) for name, of in libraries.items()}


def _each(what: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*mine, *theirs}):
        if mine.get(name) != theirs.get(name):
            yield f"{what} {name}: {mine.get(name, 'not told')}, not {theirs.get(name, 'none')}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"
