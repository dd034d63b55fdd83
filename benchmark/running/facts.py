"""What a finished run was made of, from its suite and the manifests of its stages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..common.facts import RunFacts
from ..common.fields import build, plain
from ..common.versions import VERSIONS
from ..texts.memories import memories_hash
from .plan import Run
from .provenance import TRAINED
from .store import canonical


def facts_of(run: Run) -> RunFacts:
    """The facts of a run all of whose stages are done."""
    s, made = run.suite, [run.store.manifest(stage) for stage in run.plan]
    found = {
        "base": run.base.hash,
        "corpus": run.corpus.key,
        "memories": memories_hash(run.memories),
        "row": s.row,
        "per_role": s.per_role,
        "roles": s.roles,
        "injection": {m: run.opened(place).hash for m, place in run.places.items() if m in run.nulls} if s.held else plain(s.injection),
        "attacks": {a.name: plain(a.attack) for a in run.who.attacks},
        "reasked": [a.name for a in run.who.reasked],
        "ask": s.ask,
        "subset": s.subset,
        "quality": plain(s.quality),
        "model": s.held or f"{s.model}{f' @ {s.revision}' if s.revision else ''}",
        "methods": {name: plain(method) for name, (_, method) in run.methods.items()}
        | {name: {"given": place, "hash": run.opened(place).hash} for name, place in s.given.items()},
        "precision": _each(m.get("precision") for m in made if m["kind"] in TRAINED),
        "devices": _each(m.get("device") for m in made),
        "commits": _each(m.get("commit") for m in made),
        "libraries": _libraries(made),
        "code": dict(VERSIONS),
        "stages": {f"{m['kind']} {m['label']}": m["key"] for m in made},
    }
    return build(RunFacts, json.loads(canonical(found)), "facts")


def _each(values: Iterable[Any]) -> list[str]:
    return sorted({str(v) for v in values if v})


def _libraries(manifests: list[dict[str, Any]]) -> dict[str, str]:
    seen: list[Mapping[str, str]] = [m.get("versions", {}) for m in manifests]
    return {name: ", ".join(_each(v.get(name) for v in seen)) for name in sorted({k for v in seen for k in v})}
