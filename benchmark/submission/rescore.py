"""The level `rescore`: the stages are those that this track's inputs and this code would have, and every aggregate follows from them."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeGuard

from safetensors import SafetensorError

from ...leaderboard.entry import About, Entry
from ..battery.answers import read_answers
from ..common.errors import UserError
from ..common.types import HELD, TWIN
from ..running.reasons import Reasons
from ..running.store import Store
from ..suites.config import Suite
from ..suites.frozen import differences as apart_from
from ..suites.frozen import plain_config
from .bundle import hashes, weights_in
from .consistency import quality_of_documents, readings_and_records, said_and_read, texts_side_by_side, thresholds_of_null, who_was_asked
from .levels import Case, Finding, agreed
from .row import Row, entry_in, inputs_of, row_in

CLOSE = 1e-5  # relative: numbers are rounded to 6 digits, and libraries differ in the last ones
APART = 2.0  # tokens: mean lengths of one model trained on two kinds of machine differ by less
BROKEN = (  # what files of strangers may do to their readers
    UserError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, OSError, RecursionError, SafetensorError,
)  # fmt: skip
TOLD = ("name", "track", "paper", "code", "date", "saw", "tuned_on", "curve", "frozen")  # what only the author knows
LATER = ("relearned",)  # values that bundles of before do not state; what they state is held against the stages
INNER: dict[str, Callable[[Row], list[str]]] = {
    "thresholds against the null": thresholds_of_null,
    "who is asked, and about what": who_was_asked,
    "records against what the model says of each token": readings_and_records,
    "quality against its documents": quality_of_documents,
    "texts side by side": texts_side_by_side,
    "generated texts against records": said_and_read,
}


def check(case: Case) -> Iterator[Finding]:
    """Keys first: what was swapped, altered or made with other inputs does not have the one that is looked for."""
    bundle = case.bundle
    try:
        row = row_in(bundle, case.suite)
        own = agreed("source of the method", _source(case, row), f"hash {bundle.info.method.source}")
        suite = agreed("suite", _suite(bundle.entry.config, row.suite), "as the track has it")
        frozen = agreed("frozen inputs", _frozen(case, row), "made, and looked at here, from what the track was frozen with")
        keys = agreed("stages", _keys(case, row), f"{len(row.plan)} stages, each with the key that its inputs have here")
    except BROKEN as error:
        yield Finding("stages", False, str(error) if isinstance(error, UserError) else f"cannot be read: {type(error).__name__} {error}")
        return
    yield from (own, suite, *([frozen] if case.frozen else []), keys)
    if not (keys.agreed and frozen.agreed):
        return
    for what, look in INNER.items():
        yield agreed(what, _looked(lambda look=look: look(row)))
    yield agreed("every number of the entry", _looked(lambda: _entry(case, row)), _count(bundle.entry))
    yield _yardsticks(row, case.options.store)
    yield _curve(bundle.entry)


def _source(case: Case, row: Row) -> list[str]:
    told, found = case.bundle.info.method.source, row.methods[row.method][0].source
    return [] if told == found else [f"bundle.json says {told}, and its code has {found} here"]


def _suite(config: Mapping[str, Any], suite: Suite) -> list[str]:
    apart = ("name", "doc", "track")
    return [f"{path}: {a}, not {b}" for path, a, b in differences(_without(config, apart), _without(plain_config(suite), apart))]


def _frozen(case: Case, row: Row) -> list[str]:
    """What the row's stages were made with, and what this checkout has: a key that is right here is of the track only if both are."""
    return list(apart_from(case.frozen, inputs_of(row))) if case.frozen else []


def _keys(case: Case, row: Row) -> list[str]:
    reasons, wanted = Reasons(row.store), {(s.kind, s.key) for s in row.plan}
    wrong = [f"{s.label}: {reasons.why(s).replace('new', 'missing')}" for s in row.plan if not row.store.done(s)]
    there = {(f.parent.parent.name, f.parent.name) for f in row.store.root.glob("*/*/manifest.json")}
    wrong += [f"{kind}/{key} is no stage of this row" for kind, key in sorted(there - wanted)]
    for seed in row.suite.seeds if not wrong else ():
        told = {part: sha[:16] for part, sha in case.bundle.told_weights(seed).items()}
        if told and told != (made := weights_in(row.manifest(seed))):
            wrong.append(f"weights of seed {seed} ({hashes(told)}) are not those of its stage ({hashes(made)})")
    return wrong


def _entry(case: Case, row: Row) -> list[str]:
    claimed = case.bundle.entry
    said = {name: getattr(claimed, name) for name in About.__dataclass_fields__ if name in TOLD}
    found, _ = entry_in(row, case.bundle.info.method, said, case.bundle.info.weights)
    mine, theirs = asdict(found), asdict(claimed)
    for plain in (mine, theirs):
        plain.pop("config")  # compared already
        plain["versions"] = {k: plain["versions"][k] for k in ("commit", "dirty", "libraries", "attacks")}
    mine["claimed"] |= {name: theirs["claimed"][name] for name in LATER if not theirs["claimed"][name]}
    return [f"{path}: claimed {a}, found {b}" for path, a, b in differences(_json(theirs), _json(mine))]


def differences(mine: Any, other: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """(path, one, other) of every value in which two JSON values differ; numbers that are close are the same."""
    if isinstance(mine, dict) and isinstance(other, dict):
        for key in sorted(mine.keys() | other.keys()):
            yield from differences(mine.get(key, "nothing"), other.get(key, "nothing"), f"{path}.{key}" if path else key)
    elif isinstance(mine, list) and isinstance(other, list) and len(mine) == len(other):
        for i, (a, b) in enumerate(zip(mine, other, strict=True)):
            yield from differences(a, b, f"{path}[{i}]")
    elif mine != other and not (_is_number(mine) and _is_number(other) and math.isclose(mine, other, rel_tol=CLOSE, abs_tol=1e-9)):
        yield path, _short(mine), _short(other)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _looked(look: Callable[[], list[str]]) -> list[str]:
    """What is wrong; files of strangers may hold what no reader of ours expects."""
    try:
        return look()
    except BROKEN as error:
        return [str(error) if isinstance(error, UserError) else f"cannot be read: {type(error).__name__} {str(error)[:200]}"]


def _yardsticks(row: Row, own: Path) -> Finding:
    """The held model and the twin against those of the verifier's own store, so far as it has them: a worse twin makes every row better."""
    what, store = "held model and twin against your own", Store(own) if own.is_dir() else None
    models = [row.model(name, seed) for seed in row.suite.seeds for name in (HELD, TWIN)]
    stages = [(m, s) for m in models for s in row.attacking.stages(m) if s.kind in ("battery", "attack") and store and store.done(s)]
    if not store or not stages:
        return Finding(what, None, f"{own} has none of this track")
    lengths = {(m.label, s.label): tuple(_mean_lengths(x.ensure(s)) for x in (row.store, store)) for m, s in stages}
    wrong = [
        f"{model}: {attack} reads {theirs.get(attack, 0):.1f} tokens on average, and yours {x:.1f}"
        for (model, _), (theirs, mine) in lengths.items()
        for attack, x in mine.items()
        if abs(theirs.get(attack, 0) - x) > APART
    ]
    return agreed(what, wrong, f"{len(stages)} stages, mean lengths at most {APART:g} tokens apart")


def _mean_lengths(folder: Path) -> dict[str, float]:
    by_attack: dict[str, list[int]] = defaultdict(list)
    for a in read_answers(folder):
        by_attack[a.attack].append(a.matched)
    return {attack: sum(found) / len(found) for attack, found in by_attack.items()}


def _curve(entry: Entry) -> Finding:
    if not entry.curve:
        return Finding("operating curve", None, "none is claimed")
    return Finding("operating curve", None, f"{len(entry.curve)} points are claimed; their models are not in the bundle")


def _count(entry: Entry) -> str:
    lengths = sum(len(v) for of in entry.memories.by_seed for v in of.lengths.values())
    return f"recomputed from the stages: {lengths} matched lengths and all that is made of them"


def _without(fields: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {k: v for k, v in fields.items() if k not in names}


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
