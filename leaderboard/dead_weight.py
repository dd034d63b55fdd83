"""What tells no two methods apart: attacks that add nothing to others, memories that come back from all methods or from none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ..benchmark.common.types import HELD
from ..benchmark.scoring.calibration import FEWEST_TOKENS
from ..benchmark.scoring.score import Score
from .attacks import ranked_values


@dataclass(frozen=True)
class DeadWeight:
    """Names, and among how many."""

    attacks: tuple[str, ...]  # from no row is any memory recovered by them alone
    attack_count: int
    never: tuple[tuple[int, str], ...] = ()  # (seed, memory): recovered from no method
    always: tuple[tuple[int, str], ...] = ()  # recovered from every method
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
    """Attacks without which some memory would not be recovered at this level; without thresholds, would come back less far."""
    if score.calibrations[access].possible:
        called = score.recovered_by(method, access)
        if not len(held := score.exact(HELD)):
            return set(called.columns)  # without the held model there is no leak, and so nothing to be said about what it needs
        return only_one(called[called.index.isin(held.index[held])], pd.Series(0.0, called.columns))
    return only_one(score.lengths(method)[score.up_to(access)])


def only_one(lengths: pd.DataFrame, limits: pd.Series | None = None) -> set[str]:
    """Attacks (columns, of longest matches in tokens) that alone pass their limit on some memory; without limits, alone read furthest."""
    furthest = lengths.eq(lengths.max(axis=1), axis=0) & (lengths > 0)
    best = furthest if limits is None else lengths[list(limits.index)] > limits
    only = best[best.sum(axis=1) == 1]
    return {str(a) for a in only if only[a].any()}


def comes_back(score: Score, method: str, access: str) -> pd.Series:
    """1 where a memory is recovered, else 0; without thresholds, where it comes back 8 tokens further than from the twin."""
    if score.calibrations[access].possible:
        return score.recovered_pair(method, access)["mine"]
    return (ranked_values(score, method, access) >= FEWEST_TOKENS).astype(float)
