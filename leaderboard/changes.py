"""Which memories changed between two runs: what came back, what went, what is lost of the texts that should stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..benchmark.common.types import HELD, HORIZON
from ..benchmark.scoring.calibration import FEWEST_TOKENS
from .side import Side, cut

Kind = Literal["came back", "went", "lost", "kept again"]
BAD: tuple[Kind, ...] = ("came back", "lost")


@dataclass(frozen=True)
class Change:
    """One memory of one method; the weakest attacker for whom it changed."""

    kind: Kind
    method: str  # as the new run names it
    seed: int
    memory: str
    access: str  # of a forget memory; the exact opening alone otherwise
    attack: str  # which reads furthest on the side on which more comes back
    old: int  # tokens
    new: int

    @property
    def tokens(self) -> int:
        return self.new - self.old


def changes(old: Side, new: Side, before: str, after: str, seeds: tuple[int, ...]) -> list[Change]:
    """All memories that changed, the worst first.

    A forget memory came back (went) where it is recovered now and was not (the reverse); in suites without thresholds, where
    its longest match grew (shrank) by as many tokens as a recovery needs at least. A hidden keep memory that both held models
    repeat is lost (kept again) where the exact opening brings back all of it no more (again).
    """
    found = [c for seed in seeds for c in (*_forget(old, new, before, after, seed), *_keep(old, new, before, after, seed))]
    return sorted(found, key=lambda c: (c.kind not in BAD, -abs(c.tokens), c.seed, c.memory))


def _forget(old: Side, new: Side, before: str, after: str, seed: int) -> Iterator[Change]:
    seen: set[str] = set()
    lengths = [cut(run.lengths, m, seed) for run, m in ((new, after), (old, before))]
    calls = [cut(run.calls, m, seed) for run, m in ((new, after), (old, before))]
    for level in new.access:
        attacks = new.up_to(level)
        mine, other = lengths[0][attacks].to_numpy(), lengths[1][attacks].reindex(lengths[0].index).to_numpy()
        asked = ~np.isnan(mine) & ~np.isnan(other)
        called = level in new.calls and level in old.calls
        turned = (calls[0][level] - calls[1][level]).reindex(lengths[0].index).to_numpy() if called else np.zeros(len(mine))
        for i, memory in enumerate(map(str, lengths[0].index)):
            if memory in seen or not asked[i].any():
                continue
            a, b = (np.where(asked[i], x[i], -1) for x in (mine, other))
            grown = a.max() - b.max()
            back = turned[i] if called else grown * (abs(grown) >= FEWEST_TOKENS)
            if back:
                seen.add(memory)
                further = a if back > 0 else b
                yield Change(
                    "came back" if back > 0 else "went", after, seed, memory, level, attacks[further.argmax()], int(b.max()), int(a.max())
                )


def _keep(old: Side, new: Side, before: str, after: str, seed: int) -> Iterator[Change]:
    held = [cut(run.keep, HELD, seed) for run in (new, old)]
    a, b = cut(new.keep, after, seed), cut(old.keep, before, seed)
    for memory in a.index:
        whole = [bool(x[memory] >= HORIZON) for x in (a, b)]
        if whole[0] != whole[1] and all(h[memory] >= HORIZON for h in held):
            yield Change(
                "kept again" if whole[0] else "lost", after, seed, str(memory), "", "exact opening", int(b[memory]), int(a[memory])
            )
