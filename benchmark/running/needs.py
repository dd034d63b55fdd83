"""Which stages a stage reads, by their keys: what must be done before it can be made elsewhere, and what finished ones rest on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .store import Stage, Store


def needs(plan: Sequence[Stage]) -> dict[str, frozenset[str]]:
    """Key of each stage -> the keys of the stages of the plan whose folders it reads.

    A key is a hash over the keys of what a stage reads, so they stand in its inputs. What readings an attack is given, and which rows
    need not be read again, changes no result and is in no key: both come from the shared pass of tier 0 over the same model, as the same
    row and in the same seed (a model from elsewhere has one hash in all of them).
    """
    known = {s.key for s in plan}
    first = {_asked(s): s.key for s in plan if s.kind == "battery" and s.inputs["tier"] == 0}
    found = {}
    for stage in plan:
        mine = known.intersection(_texts(stage.inputs))
        if stage.kind in ("battery", "attack") and _asked(stage) in first:
            mine |= {first[_asked(stage)]}
        found[stage.key] = frozenset(mine - {stage.key})
    return found


def below(key: str, needed: dict[str, frozenset[str]]) -> set[str]:
    """All that a stage rests on: what it reads, what that reads, and so on."""
    found: set[str] = set()
    rest = list(needed[key])
    while rest:
        one = rest.pop()
        if one not in found:
            found.add(one)
            rest += needed[one]
    return found


def strangers(store: Store, known: set[str]) -> dict[str, set[str]]:
    """Finished stages that rest on none of the known models: key -> every text in their inputs, keys and hashes of models among them.

    `known`: hashes of models that nothing here trained, and keys of stages. A stage rests on what its inputs name, and on what that
    rests on.
    """
    named = {manifest["key"]: set(_texts(manifest["inputs"])) for manifest in store.finished()}
    known = set(known)
    while resting := {key for key, names in named.items() if key not in known and names & known}:
        known |= resting
    return {key: names for key, names in named.items() if key not in known}


def _asked(stage: Stage) -> tuple[Any, ...]:
    """Which model a stage asks: held model and twin are asked about more than rows are, and each seed has other roles."""
    return tuple(stage.inputs[name] for name in ("model", "as", "seed"))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, Iterable):
        for part in value:
            yield from _texts(part)
