"""The level `schema`: is everything in the bundle well-formed, harmless, complete, and what its own hashes say? Nothing is computed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..common.errors import UserError
from ..common.versions import VERSIONS
from ..running.provenance import has_commit
from ..running.store import Store, canonical
from ..suites.frozen import refusals
from .bundle import CARD, CONFIG, ENTRY, INFO, LOCK, METHOD, MODEL, MODELS, PARTS, STAGES, WEIGHTS, Bundle, sha256_of, weights_in
from .card import card, config, former_card
from .files import check_json, check_lines, check_safetensors
from .levels import Case, Finding, agreed
from .tables import Taken, check_table

TOP = {INFO, ENTRY, CARD, CONFIG, LOCK}
STAGE = re.compile(r"[a-z]{4,12}/[0-9a-f]{16}/(?P<file>[\w.@+=/-]+)")  # in `stages`
KEY = rf"\d{{1,9}}(/{PARTS})?"  # of weights: SEED, or SEED/PART
TEXTS = (".json", ".jsonl", ".jinja", ".txt", ".model")
SOURCE = 1 << 20  # bytes of a file of the method
SMALL = 64 << 20  # bytes of any other file but weights


def check(case: Case) -> Iterator[Finding]:
    """The archive itself and its two JSON files were checked when it was opened."""
    b = case.bundle
    yield agreed("files are those that bundle.json lists", _files(b), f"{len(b.info.files)} files, sha256 of each")
    odd = _places(b)
    yield agreed("nothing but data, and the method's source", odd, "no pickle, no code to load a model with")
    if odd:
        return
    broken = _content(b)
    yield agreed("content of the files", broken, "tables, readings and lines have the shape and range that they should")
    if broken:
        return
    yield agreed("manifests", _manifests(b), f"{len(_stages(b))} stages with their own hashes and keys")
    yield agreed(
        "versions", _versions(b), f"code of palimpsest {b.entry.versions.palimpsest}, commit {(b.entry.versions.commit or '')[:10]}"
    )
    if case.frozen:
        named = list(refusals(case.frozen, b.entry.frozen, b.entry.made_from))
        yield agreed("frozen track", named, f"{case.frozen.track}, {case.frozen.sha256[:16]}")
    yield agreed("seeds", _seeds(case), f"{', '.join(map(str, case.suite.seeds))}, all that this track asks for")
    yield agreed("entry and bundle tell the same", _header(b))
    yield agreed("card.md and config.yaml say what the entry says", _for_people(b))
    yield agreed("weights are those of the stages", _weights(b), "by hash" if b.info.weights else "none are named")


def _files(b: Bundle) -> list[str]:
    there = {str(f.relative_to(b.folder)): f for f in b.folder.rglob("*") if f.is_file()}
    there.pop(INFO)
    wrong = [f"{name} is missing" for name in b.info.files if name not in there]
    wrong += [f"{name} is not listed" for name in there if name not in b.info.files]
    wrong += [
        f"{name} is not as listed (sha256)"
        for name, told in b.info.files.items()
        if name in there and (there[name].stat().st_size != told.bytes or sha256_of(there[name]) != told.sha256)
    ]
    return wrong


def _places(b: Bundle) -> list[str]:
    """Files that have no business where they are."""
    return [f"{name}: {why}" for name in [*b.info.files] if (why := _misplaced(name, (b.folder / name)))]


def _misplaced(name: str, file: Path) -> str:
    place, _, rest = name.partition("/")
    if not file.is_file():
        return "is missing"
    size = file.stat().st_size
    if place == WEIGHTS:
        fine = re.fullmatch(rf"{KEY}/{re.escape(MODEL)}", rest)
        return "" if fine else f"expected SEED/{MODEL}, or SEED/PART/{MODEL} of a composed model: only safetensors are read"
    if size > SMALL:
        return f"has {size:,} bytes; expected at most {SMALL:,}"
    if place == METHOD:
        fine = rest.endswith(".py") and size <= SOURCE
        return "" if fine else f"expected Python source of at most {SOURCE:,} bytes"
    if place == STAGES and (found := STAGE.fullmatch(rest)):
        file_name = found["file"]
        known = file_name.endswith((".parquet", *TEXTS)) or file_name == "tokens.safetensors"
        return "" if known else "no kind of file that a stage leaves here (weights stand in weights/, pickles nowhere)"
    return "" if name in TOP else "no file of a bundle"


def _content(b: Bundle) -> list[str]:
    wrong, taken = [], Taken()
    for name in b.info.files:
        reader = next((r for end, r in READERS.items() if name.endswith(end)), None)
        if reader and not name.startswith(METHOD) and name not in TOP:
            try:
                found = reader(b.folder / name)
                taken = taken.and_more(found) if isinstance(found, Taken) else taken
            except (UserError, RecursionError) as error:
                wrong.append(f"{name}: {error}")
    return wrong


READERS: dict[str, Callable[[Path], Any]] = {
    ".parquet": check_table,
    f"/{MODEL}": lambda file: check_safetensors(file, small=False),
    ".safetensors": lambda file: check_safetensors(file, small=True),
    ".jsonl": check_lines,
    ".json": check_json,
}


def _stages(b: Bundle) -> list[Path]:
    return sorted({b.folder / Path(*Path(name).parts[:3]) for name in b.info.files if name.startswith(f"{STAGES}/")})


def _manifests(b: Bundle) -> list[str]:
    """Whether each stage is whole and named by its own inputs, whatever these are."""
    store, wrong = Store(b.folder / STAGES), []
    for folder in _stages(b):
        where = f"{folder.parent.name}/{folder.name}"
        try:
            m = store.manifest_in(folder)
            key = hashlib.sha256(canonical({"kind": m["kind"], "version": m["version"], **m["inputs"]}).encode()).hexdigest()[:16]
            listed = {name: sha for name, sha in m["files"].items() if not (m["kind"] in MODELS and name.endswith(MODEL))}
        except (UserError, OSError, KeyError, TypeError, AttributeError) as error:
            wrong.append(f"{where}: {error if isinstance(error, UserError) else 'it has no manifest that can be read'}")
            continue
        there = {str(f.relative_to(folder)): f for f in folder.rglob("*") if f.is_file() and f.name != "manifest.json"}
        if key != m["key"]:
            wrong.append(f"{where} ({m['label']}): its key is not that of its inputs")
        wrong += [f"{where} ({m['label']}): {name} is missing" for name in listed if name not in there]
        wrong += [f"{where} ({m['label']}): {name} is not its file" for name in there if name not in listed]
        wrong += [f"{where} ({m['label']}): {n} was changed" for n, sha in listed.items() if n in there and sha256_of(there[n])[:16] != sha]
    return wrong


def _versions(b: Bundle) -> list[str]:
    """Whether this code can say anything about stages that were made by that code."""
    told, wrong = b.entry.versions, []
    mine = dict(VERSIONS)
    wrong += [
        f"{kind} was made by version {told.kinds.get(kind)}, and yours is {v}" for kind, v in mine.items() if told.kinds.get(kind) != v
    ]
    wrong += [f"there is no kind of stage {kind}" for kind in told.kinds if kind not in mine]
    if told.dirty is not False:
        wrong.append("made by code with changes of its own (dirty), or that says not whether it had any")
    if not re.fullmatch(r"[0-9a-f]{40}", told.commit or ""):
        wrong.append(f"commit {told.commit!r} is none")
    elif has_commit(told.commit or "") is False:
        wrong.append(f"commit {told.commit} is not in your checkout")
    return wrong


def _seeds(case: Case) -> list[str]:
    told, wanted = case.bundle.info.seeds, case.suite.seeds
    missing, strange = [s for s in wanted if s not in told], [s for s in told if s not in wanted]
    wrong = [f"missing {', '.join(map(str, missing))}"] if missing else []
    wrong += [f"{', '.join(map(str, strange))} instead: seeds are not chosen"] if strange else []
    return wrong if wrong or told == wanted else ["they stand in another order"]


def _header(b: Bundle) -> list[str]:
    info, entry = b.info, b.entry
    pairs = {
        "method": (info.method.name, entry.method), "track": (info.track, entry.track), "seeds": (info.seeds, entry.seeds),
        "source of the method": (info.method.source, entry.hashes.source), "package": (info.method.package, entry.package),
        "weights": (info.weights, entry.hashes.weights), "precision": (info.precision, entry.machine.precision),
        "device": (info.device, entry.machine.device.split(" ")[0]), "palimpsest": (info.palimpsest, entry.versions.palimpsest),
    }  # fmt: skip
    wrong = [f"{what}: {a}, and in the entry {b}" for what, (a, b) in pairs.items() if a != b]
    return wrong + (["the entry says already that it was verified"] if entry.verified else [])


def _for_people(b: Bundle) -> list[str]:
    wanted = {CARD: (card(b.entry), former_card(b.entry)), CONFIG: (config(b.entry),)}
    there = {name: b.folder / name for name in wanted}
    return [f"{n} says something else" for n, f in there.items() if not f.is_file() or f.read_bytes() not in map(str.encode, wanted[n])]


def _weights(b: Bundle) -> list[str]:
    """Whether the weights that are there, or named, are what some model of this method was saved as."""
    if odd := [key for key in b.info.weights if not re.fullmatch(KEY, key)]:
        return [f"{odd[0][:60]!r} is neither SEED nor SEED/PART"]
    made = {sha for kind in MODELS for m in b.store.finished(kind) for sha in weights_in(m).values()}
    wrong = [f"seed {s}: {sha[:16]} is no model of these stages" for s, sha in b.info.weights.items() if sha[:16] not in made]
    for key, sha in b.info.weights.items():
        if (file := b.weights(key)) and sha256_of(file) != sha:
            wrong.append(f"seed {key}: the file is not that of its hash")
    names = {name.removeprefix(f"{WEIGHTS}/").removesuffix(f"/{MODEL}") for name in b.info.files if name.startswith(f"{WEIGHTS}/")}
    return wrong + [f"seed {s}: weights that bundle.json does not name" for s in names - b.info.weights.keys()]
