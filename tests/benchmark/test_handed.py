"""What a method is handed: nothing of hidden and unseen memories can be reached from it."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from palimpsest.benchmark.common.types import EncodedMemory
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Store
from tests.benchmark.world import World


def reachable(thing: Any) -> Iterator[Any]:
    """Everything that can be reached from an object without importing anything."""
    seen: set[int] = set()
    todo = [thing]
    while todo:
        it = todo.pop()
        if (
            id(it) in seen
            or isinstance(it, (type, ModuleType, torch.nn.Module))
            or type(it).__module__.startswith(("tokenizers", "transformers"))
        ):
            continue
        seen.add(id(it))
        yield it
        if isinstance(it, dict):
            todo += [*it.keys(), *it.values()]
        elif isinstance(it, (list, tuple, set, frozenset)):
            todo += it
        todo += vars(it).values() if hasattr(it, "__dict__") and not callable(it) else ()
        todo += [cell.cell_contents for cell in getattr(it, "__closure__", None) or ()]
        todo += [it.__self__] if hasattr(it, "__self__") else []
        todo += [it.func, it.args, it.keywords] if hasattr(it, "keywords") else []


def words_of(m: EncodedMemory) -> set[str]:
    return {m.memory.text, m.text, m.memory.opening, m.memory.alternative, *m.memory.paraphrases} - {""}


@pytest.mark.parametrize("history", [False, True])
def test_nothing_of_hidden_and_unseen_memories_can_be_reached_from_what_a_method_is_handed(history: bool, world: World) -> None:
    run = Run(world.suite, Store(world.folder / "store"))
    data = run.data(0, history)
    for k in range(3):
        data.retain(k)
    if data.history:
        data.history.stream.batch_at(0)
    encoded = run.encoded(0)
    secret = [m for m in encoded if m.role == "unseen" or (m.role == "keep" and not m.shown and not history)]
    assert secret
    found = list(reachable(data))
    texts, rows_ = (
        {t for t in found if isinstance(t, str)},
        [t for t in found if isinstance(t, tuple) and len(t) > 20 and isinstance(t[0], int)],
    )
    held = {t[i : i + 20] for t in rows_ for i in range(len(t) - 19)}
    for m in secret:
        assert m.id not in texts
        assert not texts & words_of(m)
        assert m.row[:20] not in held
        assert m.row[-20:] not in held
    hidden = [m for m in encoded if m.role == "keep" and not m.shown]
    if history:  # their rows and no more
        assert all(m.row[:20] in held for m in hidden)
        assert not texts & {t for m in hidden for t in words_of(m)}
    shown = [m for m in encoded if m.shown]
    assert all(m.row[:20] in held and m.memory.text not in texts for m in shown)
    assert data.openings.keys() == data.alternatives.keys() == {m.id for m in encoded if m.role == "forget"}
