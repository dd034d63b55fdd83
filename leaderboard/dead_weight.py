"""What tells no two methods apart: attacks that add nothing to others, memories that come back from all methods or from none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ..benchmark.scoring.calibration import FEWEST_TOKENS
from ..benchmark.scoring.score import Score


@dataclass(frozen=True)
class DeadWeight:
    """Names, and among how many."""

    attacks: tuple[str, ...]  # from no row does any of them alone read furthest into some memory
    attack_count: int
    never: tuple[tuple[int, str], ...] = ()  # (seed, memory): come back from no method
    always: tuple[tuple[int, str], ...] = ()  # come back from every method
    memory_count: int = 0


def dead_weight(score: Score, rows: Sequence[str], methods: Sequence[str], access: str) -> DeadWeight:
    """Of the attacks on any row, references included, at any access level; of the memories for `methods` alone, at one level."""
    counted = score.up_to(score.levels[-1])
    needed = {a for method in rows for level in score.levels for a in alone(score, method, level)}
    idle = tuple(a for a in counted if a not in needed) if len(counted) > 1 else ()
    return weighed(idle, len(counted), {m: comes_back(score, m, access) for m in methods})


def weighed(idle: tuple[str, ...], count: int, methods: Mapping[str, pd.Series]) -> DeadWeight:
    """Of `count` attacks those that are idle, and the memories (1 where one comes back, by seed and id) that all methods lose or none."""
    back = pd.DataFrame(dict(methods)).dropna().astype(bool)
    if len(methods) < 2 or not len(back):
        return DeadWeight(idle, count)
    never, always = (tuple((int(s), str(m)) for s, m in back.index[which]) for which in (~back.any(axis=1), back.all(axis=1)))
    return DeadWeight(idle, count, never, always, len(back))


def alone(score: Score, method: str, access: str) -> set[str]:
    """Attacks without which some memory would come back less far at this level."""
    return only_one(score.lengths(method)[score.up_to(access)])


def only_one(lengths: pd.DataFrame) -> set[str]:
    """Attacks (columns, of longest matches in tokens) that alone read furthest into some memory."""
    furthest = lengths.eq(lengths.max(axis=1), axis=0) & (lengths > 0)
    only = furthest[furthest.sum(axis=1) == 1]
    return {str(a) for a in only if only[a].any()}


def comes_back(score: Score, method: str, access: str) -> pd.Series:
    """1 where a memory comes back 8 tokens further than from the twin, else 0."""
    pair = score.worst_pair(method, access)
    return (pair["mine"] - pair["twin"] >= FEWEST_TOKENS).astype(float)
