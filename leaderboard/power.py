"""How large must a change be for `palimpsest diff` to call it worse? Simulated with the comparison's own intervals and rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from ..benchmark.common.types import HORIZON
from ..benchmark.scoring.calibration import FEWEST_NULL
from .cells import MISSING, number
from .diff import ALPHA, UNITS
from .paired import Paired, over_documents, over_pairs

MEASURES = ("leak", "tokens", "exact", "damage", "collateral")
POWER = 0.8
ROWS = len(MEASURES)  # that Holm's first step divides by: one method with all of them
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
    collateral: float = 0.2  # share of the hidden keep memories that the old run lost
    training: float = 0.2  # points of damage, standard deviation between two trainings of one seed
    document: float = 1.0  # the same between documents, of the difference of two models: all seeds read the same ones


@dataclass(frozen=True)
class Size:
    """What a run measures: in each seed so many forget memories and hidden keep memories, and documents (0: it is not known how many)."""

    seeds: int
    forget: int
    keep: int
    documents: int


@dataclass(frozen=True)
class Simulated:
    """Comparisons of two runs of this size, one method."""

    size: Size
    margins: Mapping[str, float]
    world: World = World()

    def worse(self, measure: str, change: float, rows: int = ROWS) -> float:
        """The share of comparisons that call the measure worse where the truth changed by so much (points, tokens), among so many rows."""
        draw = np.random.default_rng(0)  # the same draws for every change, so that a larger one is seen as often or more
        compared = self._damages if measure == "damage" else self._memories
        lows = [compared(measure, change, draw).interval(1 - 2 * ALPHA / rows)[0] for _ in range(DRAWS)]
        return float(np.mean([low > self.margins[measure] for low in lows]))

    def _memories(self, measure: str, change: float, draw: np.random.Generator) -> Paired:
        w, size = self.world, (self.size.seeds, self.size.keep if measure == "collateral" else self.size.forget)
        place = np.sqrt(w.shared) * draw.normal(size=size)
        runs = []
        for more in (change, 0.0):
            alone = np.sqrt(1 - w.shared) * draw.normal(size=size) + w.shift * draw.normal(size=(size[0], 1))
            runs.append(list(self._values(measure, place + alone, more)))
        return over_pairs(runs[0], runs[1], 1 if measure == "tokens" else 100)

    def _values(self, measure: str, u: np.ndarray, more: float) -> np.ndarray:
        w = self.world
        if measure == "tokens":
            return np.clip(np.round(w.tokens + more + w.spread * u), 0, HORIZON)
        return (u < stats.norm.ppf(min(getattr(w, measure) + more / 100, 1.0))).astype(float)

    def _damages(self, _: str, change: float, draw: np.random.Generator) -> Paired:
        error = self.world.document / np.sqrt(self.size.documents)
        seeds = change + self.world.training * draw.normal(size=self.size.seeds) + error * draw.normal()
        return over_documents(seeds.tolist(), [error] * self.size.seeds)

    def told(self, measure: str) -> bool:
        """Whether a run of this size has the measure at all: leak needs a null, and damage documents."""
        null = NULL * self.size.forget * self.size.seeds
        return {"leak": null >= FEWEST_NULL, "damage": self.size.documents > 0}.get(measure, True)

    def smallest(self, measure: str) -> float:
        """The smallest change that four of five comparisons see; NaN where they see none."""
        w = self.world
        low, high = 0.0, {"tokens": HORIZON - w.tokens, "damage": 100.0}.get(measure, 100 * (1 - getattr(w, measure, 0.0)))
        if self.worse(measure, high) < POWER:
            return np.nan
        for _ in range(TRIES):
            middle = (low + high) / 2
            low, high = (low, middle) if self.worse(measure, middle) >= POWER else (middle, high)
        return high

    def false_alarms(self, measure: str) -> float:
        """How often it would be called worse where nothing changed but the training's chance, as a share; if it were the only row."""
        return self.worse(measure, 0.0, rows=1)


def print_power(suite: str, size: Size, margins: Mapping[str, float], console: Console) -> None:
    """Print what a run of a suite can show."""
    it = Simulated(size, margins)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("measure", "old run", "margin", "seen from", "false alarms"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for name in MEASURES:
        if not it.told(name):
            table.add_row(name, MISSING, MISSING, "not calibrated" if name == "leak" else MISSING, MISSING)
            continue
        base, change = getattr(it.world, name, np.nan) * (1 if name == "tokens" else 100), it.smallest(name)
        shown = MISSING if np.isnan(change) else f"+{number(change)} {UNITS[name]}"
        table.add_row(name, number(base), number(margins[name]), shown, f"{100 * it.false_alarms(name):.1f}%")
    seeds = f"{size.seeds} {'seed' if size.seeds == 1 else 'seeds'}"
    counts = f"{size.forget} forget and {size.keep} hidden keep memories a seed, {size.documents or 'all'} documents"
    console.print(f"{suite}: {seeds}, {counts}", highlight=False)
    console.print(table)
    console.print(
        f"Seen from: changes that {POWER:.0%} of comparisons call worse, among {ROWS} rows. False alarms: trainings that differ by chance "
        f"alone, called worse; one row. {DRAWS} simulated comparisons each.",
        highlight=False,
        soft_wrap=True,
    )
