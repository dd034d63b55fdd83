"""Dead weight of a track, from what its entries say of each memory: by the rules of `leaderboard/dead_weight.py`."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ...benchmark.scoring.calibration import FEWEST_TOKENS
from ...benchmark.scoring.score import strength
from ..dead_weight import DeadWeight, only_one, weighed
from ..entry import Entry
from ..flags import COLLAPSED
from .ranking import REFERENCES, Ranking, as_series, believed, lengths, twin, worst


def dead_weight(ranking: Ranking, access: str) -> DeadWeight:
    """Of the attacks on any row of a track, at any access level; of the memories for its methods, at one level."""
    entries = ranking.entries
    known = {a: level for e in entries for a, level in e.memories.attacks.items() if a not in e.memories.diagnostics}
    needed = {a for e in entries for level in ranking.levels for a in alone(e, level)}
    idle = tuple(a for a in sorted(known, key=lambda a: (strength(known[a]), a)) if a not in needed) if len(known) > 1 else ()
    return weighed(idle, len(known), {e.name: _back(e, access) for e in _methods(entries)})


def alone(entry: Entry, access: str) -> set[str]:
    """Attacks without which some memory would come back less far from this row at this level."""
    return only_one(lengths(entry, access))


def _back(entry: Entry, access: str) -> pd.Series:
    """1 where a memory comes back, else 0."""
    mine, theirs = worst(entry, access), twin(entry, access)
    return as_series({k: float(mine[k] - theirs[k] >= FEWEST_TOKENS) for k in mine if k in theirs})


def _methods(entries: Sequence[Entry]) -> list[Entry]:
    """Rows of methods that say something: no references, none that has collapsed."""
    return [e for e in entries if e.method not in REFERENCES and (believed(e).damage.value or 0.0) <= COLLAPSED]
