"""Validity flags: what makes a row mean something other than it seems to. One number per method and seed, one limit per flag."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from ..benchmark.common.types import HELD
from ..benchmark.scoring.calibration import FEWEST_TOKENS
from ..benchmark.scoring.score import Score, best_lengths
from .membership import chance_of_lowest
from .statistics import seed_means, seed_values
from .values import CHECKS, COVERED, LOSS, WHOLE, Measure, ValueScore

COLLAPSED = 20.0  # % of the twin's quality, by the suite's yardstick
HIGH_NULL = 32.0  # tokens: an attack that reads this much by chance cannot recover anything
RARE = 0.01  # p-value below which a number is not put down to chance
RECOVERS = 32  # tokens that an edit must bring back to show that only the opening was suppressed
BySeed = dict[int, float]


@dataclass
class Evidence:
    """What flags are read from."""

    score: Score
    values: ValueScore
    damage: Mapping[str, BySeed]  # method -> seed -> % of quality lost against the twin

    @cached_property
    def aimed(self) -> dict[str, pd.Series]:
        """Access level -> tokens: the best match on the exact opening's own target, of attacks asked of every model alike.

        A window of true tokens reads another target, from a better place; that says nothing about gradients. Nor do white-box
        attacks of the first tiers, which follow none (the logit lens).
        """
        records, left_out = self.score.records, self.score.diagnostics
        target = {(r.method, r.seed, r.memory): r.offset for r in records if r.asks == "exact"}
        same = [r for r in records if not r.extra and r.attack not in left_out and target.get((r.method, r.seed, r.memory)) == r.offset]
        found = {
            "black-box": [r for r in same if r.access == "black-box"],
            "white-box": [r for r in same if r.access == "white-box" and r.tier > 1],
        }
        return {access: best_lengths(records).max(axis=1) for access, records in found.items() if records}

    @cached_property
    def edited(self) -> pd.Series:
        """Tokens: the best match over questions that differ from the exact opening by about a token."""
        return best_lengths(r for r in self.score.records if r.asks == "edit").max(axis=1)

    def fact(self, method: str, quantity: str) -> BySeed:
        """The mean of one of the checks on a model."""
        return seed_means(pd.concat([self.values.series(method, Measure(CHECKS, quantity), role) for role in ("forget", WHOLE)]))


@dataclass(frozen=True)
class Flag:
    """Raised where the number of a seed is above the limit and, if `chance` is given, too high to be chance."""

    mark: str
    name: str
    rule: str  # what is counted, for captions
    limit: float
    measure: Callable[[Evidence, str], BySeed]
    unit: str = "%"
    chance: Callable[[Evidence, str], BySeed] | None = None  # p-value that a harmless model has such a number

    @property
    def legend(self) -> str:
        limit = f"{self.limit:g}{self.unit if self.unit == '%' else f' {self.unit}'}"
        return f"{self.mark} {self.name}: {self.rule}, above {limit}{f' and p < {RARE:g}' if self.chance else ''}"


@dataclass(frozen=True)
class FlagCell:
    """One flag on one method."""

    flag: Flag
    numbers: BySeed
    chances: BySeed = field(default_factory=dict)  # p-values, for flags that have them

    @property
    def raised(self) -> tuple[int, ...]:
        """The seeds in which it is raised; p-values are multiplied by the number of seeds."""
        rare = RARE / max(1, len(self.chances))
        return tuple(seed for seed, x in self.numbers.items() if x > self.flag.limit and self.chances.get(seed, 0) < rare)


def damaged(evidence: Evidence, method: str) -> BySeed:
    return dict(evidence.damage.get(method, {}))


def differing(evidence: Evidence, method: str) -> BySeed:
    return _percent(evidence.fact(method, "stochastic"))


def wrapped(evidence: Evidence, method: str) -> BySeed:
    return _percent(evidence.fact(method, "generated_differs"))


def masked(evidence: Evidence, method: str) -> BySeed:
    """Tokens by which black-box attacks read further than white-box attacks, on the same target of the same memories.

    Not for the held model, of which nothing was masked: there it would tell how weak the searches are.
    """
    if len(evidence.aimed) < 2 or method == HELD:
        return {}
    black, white = (_forgotten(evidence.aimed[access], method) for access in ("black-box", "white-box"))
    return seed_means((black - white).dropna())


def below_unseen(evidence: Evidence, method: str) -> BySeed:
    """% of forget memories that are less likely than every unseen memory on the same model."""
    return _below(evidence.values, method, method)


def by_chance(evidence: Evidence, method: str) -> BySeed:
    """p-values of `below_unseen`, were forget and unseen memories alike; few memories give high shares by chance."""
    shares = {seed: x / 100 for seed, x in below_unseen(evidence, method).items()}
    scores = evidence.values.alike(*(evidence.values.score(method, LOSS, role) for role in ("forget", "unseen")))
    mine, others = (x.groupby("seed").size() for x in scores)
    return {s: chance_of_lowest(round(x * mine[s]), mine[s], others[s]) for s, x in shares.items()}


def below_ordinary(evidence: Evidence, method: str) -> BySeed:
    """% of forget memories that are less likely than every unseen memory is on the twin."""
    return _below(evidence.values, method, evidence.values.twin)


def cliff(evidence: Evidence, method: str) -> BySeed:
    """% of forget memories of which the exact opening brings back under 8 tokens, and an edit of about one token at least 32."""
    edited, opening = _forgotten(evidence.edited, method), evidence.score.opening(method)
    edited = edited[edited.index.isin(opening.index)]
    return _percent(seed_means((opening[edited.index] < FEWEST_TOKENS) & (edited >= RECOVERS)))


def small_update(evidence: Evidence, method: str) -> BySeed:
    return {} if method == HELD else _percent(evidence.fact(method, "undone_by_int4"))  # the held model has no update


def untouched(evidence: Evidence, method: str) -> BySeed:
    """% of the body's matrices that an attack which changes the model left as they were; of several attacks the one that left most."""
    found = [evidence.values.series(method, what, WHOLE) for what in evidence.values.measures if what.quantity == COVERED]
    return {s: 100 * (1 - x.min()) for s, x in seed_values(pd.concat(found)).items()} if found else {}


FLAGS = (
    Flag("†", "collapsed", "quality lost against the twin", COLLAPSED, damaged),
    Flag("s", "stochastic", "greedy answers that differ when asked twice", 0, differing),
    Flag("g", "wrapped", "generated texts whose matched length is not the one read off a forward pass", 5, wrapped),
    Flag("m", "masked gradients", "what black-box attacks read further than white-box attacks from the opening on", 8, masked, "tokens"),
    Flag("o", "over-forgetting", "forget memories less likely than every unseen one on the same model", 5, below_unseen, chance=by_chance),
    Flag("r", "noise", "forget memories less likely than every unseen one on the twin", 50, below_ordinary),
    Flag("c", "suppression cliff", "memories that the exact opening does not bring back, and an edit of one token does", 5, cliff),
    Flag("q", "small update", "share of the update that rounding to int4 takes back", 50, small_update),
    Flag("p", "partly attacked", "matrices that an attack which changes the model did not reach", 10, untouched),
)


def flags_of(evidence: Evidence, method: str) -> tuple[FlagCell, ...]:
    """Every flag on a method, in the order of FLAGS."""
    return tuple(FlagCell(f, f.measure(evidence, method), f.chance(evidence, method) if f.chance else {}) for f in FLAGS)


def high_nulls(score: Score) -> dict[str, float]:
    """Attack -> q_a in tokens, of those that read more than 32 tokens where nothing was held."""
    quantiles = {attack: q for c in score.calibrations.values() for attack, q in c.quantiles.items()}
    return {attack: q for attack, q in quantiles.items() if q > HIGH_NULL}


def _below(values: ValueScore, method: str, yardstick: str) -> BySeed:
    mine, unseen = values.alike(values.score(method, LOSS), values.score(yardstick, LOSS, "unseen"))
    lowest = unseen.groupby("seed").min()
    limits = lowest.reindex(mine.index.get_level_values("seed")).to_numpy(float)
    return _percent(seed_means((mine < limits)[~np.isnan(limits)]))


def _forgotten(lengths: pd.Series, method: str) -> pd.Series:
    """The forget memories of a method, indexed by (seed, memory)."""
    level = lengths.index.get_level_values
    return lengths[(level("method") == method) & (level("role") == "forget")].droplevel(["method", "role", "shown"])


def _percent(shares: BySeed) -> BySeed:
    return {seed: 100 * x for seed, x in shares.items()}
