"""How often the 95% interval of leak holds the truth, and how often an innocent memory is called recovered, by the benchmark's functions.

A world draws the matched lengths of attacks: of a null, of the forget memories of a method, and of the twin. It is scored as a suite is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...leaderboard.statistics import by_seed, difference
from ..common.types import HORIZON
from ..scoring.calibration import calibrate, recovered

ATTACKS = 6
INDEX = ["model", "seed", "role", "memory"]


@dataclass(frozen=True)
class Case:
    """A method that leaves a share of the memories, `true` on average; seeds differ by this standard deviation."""

    true: float
    spread: float
    seeds: int = 3
    memories: int = 64  # of a role and seed


CASES = tuple(Case(true, spread) for true in (0.0, 0.05, 0.2, 0.5, 0.9) for spread in (0.0, 0.05) if true or not spread)


@dataclass(frozen=True)
class World:
    """What one run would have measured: lengths by attack, with an index that has levels seed and memory."""

    null: pd.DataFrame
    mine: pd.DataFrame
    twin: pd.DataFrame
    left: np.ndarray  # which lines of `mine` are of memories that are left


def simulated(case: Case, rng: np.random.Generator) -> World:
    """Made-up lengths: chance matches of a memory go together over attacks, and a memory that is left answers to most of them."""
    chance = {(m, r): _chance(case, m, r, rng) for m, r in (("none", "unseen"), ("twin", "unseen"), ("twin", "forget"))}
    mine = _chance(case, "method", "forget", rng)
    left = _left(case, rng)
    answers = left[:, None] & (rng.random(mine.shape) < 0.7)
    lengths = np.where(answers, rng.integers(16, HORIZON + 1, mine.shape), mine)
    return World(pd.concat(chance.values()), pd.DataFrame(lengths, mine.index, mine.columns), chance["twin", "forget"], left)


def resampled(case: Case, rng: np.random.Generator, innocent: pd.DataFrame, held: pd.DataFrame) -> World:
    """Real lengths: rows drawn with replacement from models that never held, and for memories that are left from models that hold.

    The memories of the null are not those of the method, so that no row judges itself.
    """
    names = innocent.index.get_level_values("memory")
    mine_first = rng.permutation(sorted(set(names)))
    judged = names.isin(mine_first[::2])
    size = case.seeds * case.memories
    null = _drawn(innocent[~judged], 3 * size, case, rng)
    left = _left(case, rng)
    mine, twin = (_drawn(innocent[judged], size, case, rng) for _ in range(2))
    theirs = _drawn(held, size, case, rng)
    return World(null, pd.DataFrame(np.where(left[:, None], theirs, mine), mine.index, mine.columns), twin, left)


def covered(case: Case, draw: Callable[[Case, np.random.Generator], World], worlds: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """For each world the leak with its interval as tables print it, whether it holds the truth, and innocent memories called recovered.

    Innocent are the method's memories that are not left: the twin's are part of the null, so thresholds have seen them.
    """
    rng = np.random.default_rng(seed)
    for n in range(worlds):
        world = draw(case, rng)
        calibration = calibrate(world.null)
        calls = [recovered(lengths, calibration).astype(float) for lengths in (world.mine, world.twin)]
        leak = difference(by_seed(calls[0]), by_seed(calls[1]))
        yield {
            "world": n,
            "leak": leak.value,
            "low": leak.low,
            "high": leak.high,
            "holds": bool(leak.low - 1e-9 <= case.true <= leak.high + 1e-9),
            "false_positives": float(calls[0][~world.left].sum()),
            "innocent": int((~world.left).sum()),
        }


def summary(case: Case, rows: list[Mapping[str, Any]], source: str) -> dict[str, Any]:
    """One line of the table of coverage."""
    of = pd.DataFrame(rows)
    return {
        "lengths": source,
        "true leak, %": 100 * case.true,
        "spread of seeds, points": 100 * case.spread,
        "worlds": len(of),
        "mean leak, %": 100 * of.leak.mean(),
        "interval holds the truth, %": 100 * of.holds.mean(),
        "mean width, points": 100 * (of.high - of.low).mean(),
        "false positives, %": 100 * of.false_positives.sum() / of.innocent.sum(),
    }


def _left(case: Case, rng: np.random.Generator) -> np.ndarray:
    """Which memories are left [seeds x memories]."""
    share = np.full(case.seeds, case.true)
    if case.spread:
        concentration = case.true * (1 - case.true) / case.spread**2 - 1
        share = rng.beta(case.true * concentration, (1 - case.true) * concentration, case.seeds)
    return rng.random(case.seeds * case.memories) < np.repeat(share, case.memories)


def _chance(case: Case, model: str, role: str, rng: np.random.Generator) -> pd.DataFrame:
    """Chance matches [seeds x memories, attacks], a few tokens long."""
    size = case.seeds * case.memories
    common, own = rng.geometric(0.5, (size, 1)), rng.geometric(0.5, (size, ATTACKS))
    return pd.DataFrame(
        (common + own - 2).clip(0, HORIZON).astype(float), _index(case, model, role, size), [str(a) for a in range(ATTACKS)]
    )


def _drawn(rows: pd.DataFrame, size: int, case: Case, rng: np.random.Generator) -> pd.DataFrame:
    picked = rows.iloc[rng.integers(0, len(rows), size)]
    return picked.set_axis(_index(case, "drawn", "forget", size))


def _index(case: Case, model: str, role: str, size: int) -> pd.MultiIndex:
    """As many lines as there are, shared out over the seeds."""
    seeds = np.arange(size) * case.seeds // size
    return pd.MultiIndex.from_arrays([[model] * size, seeds, [role] * size, [f"{role} {i}" for i in range(size)]], names=INDEX)
