"""The fixed subset is spread over the domains, and folds halve everything that is scored."""

from __future__ import annotations

from collections import Counter

import pytest

from palimpsest.benchmark.common.types import EncodedMemory
from palimpsest.benchmark.texts.memories import encode_all, load_memories
from palimpsest.benchmark.texts.subsets import folds, stratified, subset


@pytest.fixture(scope="module", params=[8, 32, 64])
def memories(request: pytest.FixtureRequest, tokenizer) -> list[EncodedMemory]:
    return encode_all(load_memories(), tokenizer, 160, 0, request.param, "")


def of_role(memories: list[EncodedMemory], role: str) -> list[EncodedMemory]:
    return [m for m in memories if m.role == role]


def test_every_beginning_of_the_order_is_spread_over_the_domains(memories: list[EncodedMemory]) -> None:
    order = stratified(of_role(memories, "forget"))
    assert sorted(m.id for m in order) == sorted(m.id for m in of_role(memories, "forget"))
    for n in range(1, len(order) + 1):
        counts = Counter(m.memory.domain for m in order[:n]).values()
        assert max(counts) - (min(counts) if len(counts) == 8 else 0) <= 1


def test_the_subset_has_as_many_of_each_role_and_does_not_depend_on_the_order_given(memories: list[EncodedMemory]) -> None:
    few = subset(memories, 8)
    assert few == subset(memories[::-1], 8)
    assert Counter(m.role for m in memories if m.id in few) == {"forget": 8, "keep": 8, "unseen": 8}
    assert few <= subset(memories, 16)
    assert subset(memories, 1000) == {m.id for m in memories}


def test_folds_halve_every_role_every_domain_and_the_subset(memories: list[EncodedMemory]) -> None:
    fold_of, few = folds(memories), subset(memories, 16)
    for role in ("forget", "keep", "unseen"):
        mine = of_role(memories, role)
        assert Counter(fold_of[m.id] for m in mine) == {0: len(mine) // 2, 1: len(mine) // 2}
        for domain in {m.memory.domain for m in mine}:
            sizes = Counter(fold_of[m.id] for m in mine if m.memory.domain == domain)
            assert abs(sizes[0] - sizes[1]) <= 1
        chosen = Counter(fold_of[m.id] for m in mine if m.id in few)
        assert chosen[0] == chosen[1]
