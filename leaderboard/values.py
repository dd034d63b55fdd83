"""Numbers that are no matched lengths, read per method: membership, extraction by sampling, relearning, and all others."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import NamedTuple, cast

import numpy as np
import pandas as pd

from ..benchmark.common.types import HELD, MATCHED, Value
from .measures import Ratio, relearn_ratio, tries_needed
from .membership import auc, auc_error, caught, forget_quality, privleak
from .statistics import NOWHERE, Estimate, Interval, by_seed, difference, figure, mean, rate, seed_values, wilson

CHECKS = "checks"  # the name under which facts about a model stand, for flags
GENERATED = "generated"  # the check that stands beside the other numbers
COVERED = "covered"  # what an attack says that changes a model: the share of the body's matrices that it reached
SAMPLING = "sampling"  # quantity: log p_z, the chance that sampling gives the target
LOSS = "loss"  # quantity: the mean log-probability, as a membership score
TRIES = (1, 10, 100, 1000)
CHANCE = 0.5  # p of (n,p)-discoverable extraction
FALSE_POSITIVES = (0.01, 0.05)
GOAL = 32  # tokens, mean over memories, to which relearning is counted
WHOLE = ""  # the memory (and role) of a number that is about the model as a whole


class Measure(NamedTuple):
    """What was measured, by which attack, and of a changed model at which dose and step."""

    attack: str
    quantity: str
    dose: str = ""
    step: int = -1

    @property
    def is_point(self) -> bool:
        """Whether it belongs to a trajectory."""
        return self.quantity == MATCHED and self.step >= 0

    @property
    def label(self) -> str:
        at = f"{self.dose} step {self.step}".strip() if self.step >= 0 else self.dose
        return f"{self.quantity}@{at}" if at else self.quantity


@dataclass(frozen=True)
class MembershipCell:
    """One membership attack on one model: forget against unseen memories of the same seed."""

    attack: str
    auc: Estimate
    caught: tuple[Estimate, ...]  # true positive rates at the false positive rates of FALSE_POSITIVES
    privleak: Estimate  # % of the retrained model's AUC
    quantity: str  # what the score is


@dataclass(frozen=True)
class QualityCell:
    """Kolmogorov-Smirnov distance of the forget memories' mean log-probability to the twin's, all seeds together, and its p."""

    distance: float = float("nan")
    p: float = float("nan")


@dataclass(frozen=True)
class ExtractionCell:
    """Forget memories that so many samples give with a chance of one half."""

    tries: int
    share: Estimate
    over: Estimate  # minus the twin's share on the same memories


@dataclass(frozen=True)
class NumberCell:
    """The mean of some other number over forget memories, and what it exceeds the twin's by on the same memories."""

    attack: str
    quantity: str
    mean: Estimate
    over: Estimate

    @property
    def name(self) -> str:
        return self.quantity if self.quantity == self.attack else f"{self.attack}: {self.quantity}"


@dataclass(frozen=True)
class TrajectoryCell:
    """Matched length after the exact opening while an attack relearns; step 0 is the model as it was."""

    attack: str
    dose: str
    steps: dict[int, Estimate]  # tokens
    ratio: Ratio

    @property
    def name(self) -> str:
        return f"{self.attack} {self.dose}".strip()


@dataclass(frozen=True)
class Further:
    """Everything about one method that is no matched length."""

    membership: tuple[MembershipCell, ...] = ()
    forget_quality: QualityCell = field(default_factory=QualityCell)
    extraction: tuple[ExtractionCell, ...] = ()
    numbers: tuple[NumberCell, ...] = ()
    trajectories: tuple[TrajectoryCell, ...] = ()


@dataclass(frozen=True)
class ValueScore:
    """The values of one suite. Series are indexed by (seed, memory)."""

    values: list[Value] = field(repr=False)
    twin: str
    kinds: Mapping[str, str] = field(default_factory=dict, repr=False)  # of memories that are no passages

    @cached_property
    def _series(self) -> dict[tuple[str, Measure, str], pd.Series]:
        frame = pd.DataFrame([vars(v) for v in self.values], columns=[f.name for f in fields(Value)])
        kinds: list[Hashable] = ["method", *Measure._fields, "role"]
        means = frame.groupby([*kinds, "seed", "memory"])["value"].mean()  # over folds, where there are several
        found = {}
        for key, group in means.groupby(level=kinds):
            method, attack, quantity, dose, step, role = cast(tuple[str, str, str, str, int, str], key)
            found[method, Measure(attack, quantity, dose, step), role] = group.droplevel(kinds).dropna()
        return found

    def series(self, method: str, what: Measure, role: str = "forget") -> pd.Series:
        """The values of one quantity on the memories of one role; empty if it was not measured."""
        nothing = pd.Series([], pd.MultiIndex.from_arrays([[], []], names=["seed", "memory"]), dtype=float)
        return self._series.get((method, what, role), nothing)

    def fixed(self, method: str, what: Measure) -> pd.Series:
        """On forget memories that are asked of every model alike: those that the held model was asked about, if it was."""
        mine, held = self.series(method, what), self.series(HELD, what)
        return mine[mine.index.isin(held.index)] if len(held) else mine

    @cached_property
    def measures(self) -> list[Measure]:
        """Everything that was measured, in the order of the values."""
        return list(dict.fromkeys(Measure(v.attack, v.quantity, v.dose, v.step) for v in self.values))

    @cached_property
    def scored(self) -> dict[str, str]:
        """Attack -> quantity, of those that score every memory from one pass: they are of tier 0."""
        return {v.attack: v.quantity for v in self.values if v.tier == 0 and v.attack != CHECKS}

    @cached_property
    def memberships(self) -> list[str]:
        """Those whose score tells members from others."""
        return [attack for attack, quantity in self.scored.items() if quantity != SAMPLING]

    def score(self, method: str, quantity: str, role: str = "forget") -> pd.Series:
        """The scores of the first attack that declares this quantity, whatever its name; empty without one."""
        attack = next((a for a, q in self.scored.items() if q == quantity), "")
        return self.series(method, Measure(attack, quantity), role)

    def alike(self, forget: pd.Series, unseen: pd.Series) -> tuple[pd.Series, pd.Series]:
        """Of both, in every seed, memories of the kind that most never-seen ones are of: a passage's score tells nothing of a question."""
        if not self.kinds:
            return forget, unseen
        kinds = self._kinds(unseen)
        most = {seed: mine.mode()[0] for seed, mine in kinds.groupby(unseen.index.get_level_values("seed").to_numpy())}
        return tuple(x[self._kinds(x) == x.index.get_level_values("seed").map(most)] for x in (forget, unseen))  # type: ignore[return-value]

    def _kinds(self, scores: pd.Series) -> pd.Series:
        names = scores.index.get_level_values("memory")
        return pd.Series([self.kinds.get(name, "passage") for name in names], scores.index, dtype=object)

    # ---- cells

    def further(self, method: str, openings: dict[str, pd.Series]) -> Further:
        """All cells of one method; `openings` as for `trajectories`."""
        return Further(
            membership=self.membership(method),
            forget_quality=self.forget_quality(method),
            extraction=self.extraction(method),
            numbers=self.numbers(method),
            trajectories=self.trajectories(method, openings),
        )

    def membership(self, method: str) -> tuple[MembershipCell, ...]:
        """AUC, true positive rates and PrivLeak of every membership attack."""
        return tuple(self._membership(method, attack) for attack in self.memberships)

    def _membership(self, method: str, attack: str) -> MembershipCell:
        mine, twin = self._sides(method, attack), self._sides(self.twin, attack)
        aucs = {seed: auc(*sides) for seed, sides in mine.items()}
        leaks = [privleak(a, auc(*twin[seed])) for seed, a in aucs.items() if seed in twin]
        hits = tuple(rate([caught(*sides, f) for sides in mine.values()]) for f in FALSE_POSITIVES)
        return MembershipCell(
            attack=attack,
            auc=figure(list(aucs.values()), _auc_interval(list(mine.values()))).within(0, 1),
            caught=hits,
            privleak=figure(leaks),
            quantity=self.scored[attack],
        )

    def _sides(self, method: str, attack: str) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Seed -> scores of forget and of unseen memories of one kind."""
        what = Measure(attack, self.scored[attack])
        forget, unseen = map(seed_values, self.alike(*(self.series(method, what, role) for role in ("forget", "unseen"))))
        return {seed: (scores, unseen[seed]) for seed, scores in forget.items() if seed in unseen}

    def forget_quality(self, method: str) -> QualityCell:
        """How far the forget memories' mean log-probabilities lie from those of the twin."""
        return QualityCell(*forget_quality(*(self.score(m, LOSS) for m in (method, self.twin))))

    def extraction(self, method: str) -> tuple[ExtractionCell, ...]:
        """Shares that sampling extracts, for a growing number of tries; empty without the sampling attack."""
        mine, twin = self.needed(method), self.needed(self.twin)
        shared = mine.index.intersection(twin.index)
        cells = []
        for n in TRIES if len(mine) else ():
            over = difference(by_seed(mine[shared] <= n), by_seed(twin[shared] <= n))
            cells.append(ExtractionCell(n, rate(by_seed(mine <= n)), over))
        return tuple(cells)

    def needed(self, method: str) -> pd.Series:
        """Tries needed to sample each forget memory with a chance of one half."""
        return self.score(method, SAMPLING).transform(lambda x: tries_needed(x, CHANCE))

    def numbers(self, method: str) -> tuple[NumberCell, ...]:
        """Every other quantity: exposure, compression ratio, depth, …; of the checks, what is generated."""
        taken = {Measure(*scored) for scored in self.scored.items()}
        rest = [m for m in self.measures if m not in taken and (m.attack != CHECKS or m.quantity == GENERATED) and not m.is_point]
        return tuple(self._number(method, what) for what in rest)

    def _number(self, method: str, what: Measure) -> NumberCell:
        mine, twin = (pd.concat([self.fixed(m, what), self.series(m, what, WHOLE)]) for m in (method, self.twin))
        over = (mine - twin).replace([np.inf, -np.inf], np.nan)
        return NumberCell(what.attack, what.label, mean(by_seed(mine.replace([np.inf, -np.inf], np.nan))), mean(by_seed(over)))

    def trajectories(self, method: str, openings: dict[str, pd.Series]) -> tuple[TrajectoryCell, ...]:
        """Every trajectory of relearning; `openings` (method -> tokens after the exact opening) give step 0."""
        found: dict[tuple[str, str], list[Measure]] = {}  # (attack, dose) -> points
        for what in self.measures:
            if what.is_point:
                found.setdefault((what.attack, what.dose), []).append(what)
        return tuple(self._trajectory(method, *key, points, openings) for key, points in found.items())

    def _trajectory(self, method: str, attack: str, dose: str, points: list[Measure], openings: dict[str, pd.Series]) -> TrajectoryCell:
        paths: dict[str, dict[int, Estimate]] = {}
        for m in (method, self.twin):
            path = {what.step: self.fixed(m, what) for what in points}
            asked = next((s.index for s in path.values() if len(s)), None)
            if asked is not None and 0 not in path and m in openings:
                path[0] = openings[m][openings[m].index.isin(asked)]
            paths[m] = {step: x for step in sorted(path) if (x := mean(by_seed(path[step])))}
        mine, twin = ({step: x.value for step, x in paths[m].items()} for m in (method, self.twin))
        return TrajectoryCell(attack, dose, paths[method], relearn_ratio(mine, twin, GOAL))


def _auc_interval(sides: list[tuple[np.ndarray, np.ndarray]]) -> Interval:
    """Over texts, all seeds together, for where seeds say nothing: DeLong, or Wilson on the smaller side where that has no width."""
    if not sides:
        return NOWHERE
    value = float(np.mean([auc(*s) for s in sides]))
    half = 1.96 * float(np.sqrt(np.sum([auc_error(*s) ** 2 for s in sides]))) / len(sides)
    smaller = sum(min(map(len, s)) for s in sides)
    return (value - half, value + half) if half > 0 else wilson(value * smaller, smaller)
