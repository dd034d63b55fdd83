"""Which memories an attack is asked about: roles, the fixed stratified subset, and the two folds of cross-fitted attacks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ..common.types import EncodedMemory


def stratified(memories: Sequence[EncodedMemory]) -> list[EncodedMemory]:
    """The memories of one role in an order of which every beginning is spread evenly over the domains."""
    domains: dict[str, list[EncodedMemory]] = defaultdict(list)
    for m in sorted(memories, key=lambda m: m.id):
        domains[m.memory.domain].append(m)
    longest = max((len(d) for d in domains.values()), default=0)
    return [domains[name][i] for i in range(longest) for name in sorted(domains) if i < len(domains[name])]


def subset(memories: Sequence[EncodedMemory], size: int) -> set[str]:
    """Ids of the fixed subset: at most `size` of each role."""
    roles = {m.role for m in memories}
    return {m.id for role in roles for m in stratified([m for m in memories if m.role == role])[:size]}


def folds(memories: Sequence[EncodedMemory]) -> dict[str, int]:
    """Memory -> 0 or 1: every role, every domain and every beginning of the subset is halved, as far as numbers allow."""
    out: dict[str, int] = {}
    for role in {m.role for m in memories}:
        mine = [m for m in memories if m.role == role]
        domains = sorted({m.memory.domain for m in mine})
        place = dict.fromkeys(domains, 0)
        for m in stratified(mine):
            domain = m.memory.domain
            out[m.id] = (place[domain] + domains.index(domain)) % 2
            place[domain] += 1
    return out
