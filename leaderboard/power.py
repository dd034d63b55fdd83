"""How large must a change be for `palimpsest diff` to call it worse? Simulated with the comparison's own intervals and rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from ..benchmark.common.types import HORIZON
from ..benchmark.scoring.calibration import FEWEST_NULL
from .cells import MISSING, number
from .diff import ALPHA, UNITS
from .paired import over_pairs

POWER = 0.8
ROWS = 5  # that Holm's first step divides by: one method with leak, tokens, exact, damage and collateral
DRAWS = 400  # simulated comparisons for each size of change that is tried
NULL = 3  # values of the null for each forget memory: unseen ones of the held model and of the twin, forgotten ones of the twin
TRIES = 9  # halvings of the range in which the change is looked for


@dataclass(frozen=True)
class World:
    """What two runs are like. What a memory does in a run is a normal variable of variance 1, plus its seed's shift."""

    shared: float = 0.5  # correlation of a memory in the old run with itself in the new run
    shift: float = 0.15  # standard deviation of what one training does to all memories of its seed together, in each run anew
    leak: float = 0.3  # share recovered in the old run
    tokens: float = 10.0  # mean of the longest match in the old run
    spread: float = 7.0  # tokens, standard deviation of it
    exact: float = 0.05  # share that the exact opening brings back in the old run


@dataclass(frozen=True)
class PerMeasure:
    """A number for each; NaN where there is none."""

    leak: float
    tokens: float
    exact: float


@dataclass(frozen=True)
class Simulated:
    """Comparisons of two runs with so many forget memories in each of so many seeds, one method."""

    memories: int
    seeds: int
    margins: Mapping[str, float]
    world: World = World()

    def worse(self, measure: str, change: float, rows: int = ROWS) -> float:
        """The share of comparisons that call the measure worse where the truth changed by so much (points, tokens), among so many rows."""
        draw = np.random.default_rng(0)  # the same draws for every change, so that a larger one is seen as often or more
        size, w, found = (self.seeds, self.memories), self.world, 0
        for _ in range(DRAWS):
            place = np.sqrt(w.shared) * draw.normal(size=size)
            runs = []
            for more in (change, 0.0):
                alone = np.sqrt(1 - w.shared) * draw.normal(size=size) + w.shift * draw.normal(size=(self.seeds, 1))
                runs.append(list(self._values(measure, place + alone, more)))
            low, _ = over_pairs(runs[0], runs[1], 1 if measure == "tokens" else 100).interval(1 - 2 * ALPHA / rows)
            found += bool(low > self.margins[measure])
        return found / DRAWS

    def _values(self, measure: str, u: np.ndarray, more: float) -> np.ndarray:
        w = self.world
        if measure == "tokens":
            return np.clip(np.round(w.tokens + more + w.spread * u), 0, HORIZON)
        return (u < stats.norm.ppf(min(getattr(w, measure) + more / 100, 1.0))).astype(float)

    def smallest(self, measure: str) -> float:
        """The smallest change that four of five comparisons see; NaN where they see none."""
        low, high = 0.0, HORIZON - self.world.tokens if measure == "tokens" else 100 * (1 - getattr(self.world, measure))
        if self.worse(measure, high) < POWER:
            return np.nan
        for _ in range(TRIES):
            middle = (low + high) / 2
            low, high = (low, middle) if self.worse(measure, middle) >= POWER else (middle, high)
        return high


def detectable(memories: int, seeds: int, margins: Mapping[str, float], world: World = World()) -> PerMeasure:
    """The smallest changes for the worse that a run of this size shows, in points and tokens."""
    return _each(Simulated(memories, seeds, margins, world).smallest)


def false_alarms(memories: int, seeds: int, margins: Mapping[str, float], world: World = World()) -> PerMeasure:
    """How often each measure would be called worse where nothing changed but the training's chance, as a share; if it were the only row."""
    it = Simulated(memories, seeds, margins, world)
    return _each(lambda measure: it.worse(measure, 0.0, rows=1))


def _each(of: Callable[[str], float]) -> PerMeasure:
    return PerMeasure(*(of(measure) for measure in ("leak", "tokens", "exact")))


def print_power(suite: str, memories: int, seeds: int, margins: Mapping[str, float], console: Console) -> None:
    """Print what a run of a suite can show."""
    world = World()
    seen, alarms = (of(memories, seeds, margins, world) for of in (detectable, false_alarms))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("measure", "old run", "margin", "seen from", "false alarms"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for name in ("leak", "tokens", "exact"):
        base, change = getattr(world, name) * (1 if name == "tokens" else 100), getattr(seen, name)
        shown = MISSING if np.isnan(change) else f"+{number(change)} {UNITS[name]}"
        if name == "leak" and NULL * memories * seeds < FEWEST_NULL:
            table.add_row(name, MISSING, MISSING, "not calibrated", MISSING)
            continue
        table.add_row(name, number(base), number(margins[name]), shown, f"{100 * getattr(alarms, name):.1f}%")
    console.print(f"{suite}: {memories} forget memories a seed, {seeds} {'seed' if seeds == 1 else 'seeds'}", highlight=False)
    console.print(table)
    console.print(
        f"Seen from: changes that {POWER:.0%} of comparisons call worse, among {ROWS} rows. False alarms: trainings that differ by chance "
        f"alone, called worse; one row. {DRAWS} simulated comparisons each.",
        highlight=False,
        soft_wrap=True,
    )
