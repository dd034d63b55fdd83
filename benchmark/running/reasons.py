"""Why a stage is to be done: what of its inputs differs from those of the nearest finished stage that was the same thing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .store import Stage, Store, canonical

SHORT = 24  # characters of a value that is shown; of longer ones it is said that they changed


class Reasons:
    """Compares stages with the finished ones of a store, whose manifests are read once."""

    def __init__(self, store: Store):
        self.store = store
        self._finished: dict[str, list[dict[str, Any]]] = {}

    def why(self, stage: Stage) -> str:
        """`new` where nothing of this kind and label is finished, else the fields that differ from the nearest one."""
        if stage.kind not in self._finished:
            self._finished[stage.kind] = list(self.store.finished(stage.kind))
        same = [m for m in self._finished[stage.kind] if m["label"] == stage.label]
        if not same:
            return "begun" if self.store.scratch(stage).exists() else "new"
        now = json.loads(canonical(stage.inputs))
        nearest = min((list(_differences(stage, m, now)) for m in same), key=len)
        if nearest:
            return ", ".join(nearest)
        return "its folder is gone" if any(m["inputs"] == now for m in same) else "attacks in another order"


def _differences(stage: Stage, manifest: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    if manifest["version"] != stage.version:
        yield f"version of {stage.kind} {manifest['version']} → {stage.version}"
    yield from _between(manifest["inputs"], now)


def _between(old: Any, new: Any, name: str = "") -> Iterator[str]:
    if old == new:
        return
    old, new = _by_name(old), _by_name(new)
    if isinstance(old, dict) and isinstance(new, dict):
        for k in sorted({*old, *new}):
            inner = f"{name}.{k}" if name else k
            if k not in new or k not in old:
                yield f"{inner} {'added' if k in new else 'left out'}"
            else:
                yield from _between(old[k], new[k], inner)
    elif any(_opaque(v) for v in (old, new)):
        yield f"{name} changed"
    else:
        yield f"{name} {_short(old)} → {_short(new)}"


def _by_name(value: Any) -> Any:
    """A list of attacks as a mapping from their names."""
    named = isinstance(value, list) and bool(value) and all(isinstance(v, dict) and "name" in v for v in value)
    return {v["name"]: v for v in value} if named else value


def _opaque(value: Any) -> bool:
    """Whether showing a value would say nothing: a hash, or something long."""
    text = _short(value)
    return len(text) > SHORT or (isinstance(value, str) and len(value) == 16 and set(value) <= set("0123456789abcdef"))


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
