"""From matched lengths to leak: the best match per attack, the null, who survives, and what comes back at each access level.

Everything here is pure and works on records alone. docs/metrics.md, "Score", gives the reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from ..common.types import HELD, HORIZON, Record
from .calibration import Calibration, calibrate, each_recovered, recovered

UNCHANGED = "unchanged"  # the attack that asks the model as it is with what changed models are asked with
LEARNT = 0.1  # share of the forget memories that the held model repeats exactly, below which nothing was learnt
ACCESS_ORDER = ("black-box", "grey-box", "white-box", "weights")  # each attacker can do all that those before can
INDEX = ["method", "seed", "role", "shown", "memory"]
MATCH = "matched"  # the one column of tables that are not by attack


def best_lengths(records: Iterable[Record]) -> pd.DataFrame:
    """Tokens: the best match over variants and folds. Rows (method, seed, role, shown, memory), a column per attack.

    NaN where an attack was not asked (early exit, or a stratified subset).
    """
    rows = [(r.method, r.seed, r.role, r.shown, r.memory, r.attack, r.matched) for r in records]
    long = pd.DataFrame(rows, columns=[*INDEX, "attack", "matched"])
    return long.groupby([*INDEX, "attack"])["matched"].max().unstack("attack").astype(float)


def whole_answers(records: Iterable[Record]) -> dict[str, int]:
    """Memory -> tokens of its target, of those whose target is an answer of fewer than 64: as the exact opening asks for it."""
    return {r.memory: r.horizon for r in records if r.asks == "exact" and r.horizon < HORIZON}


def null_lengths(best: pd.DataFrame, twin: str) -> pd.DataFrame:
    """The rows of `best` where nothing was held: unseen on the held model; forget and unseen on the twin; all seeds."""
    method, role = best.index.get_level_values("method"), best.index.get_level_values("role")
    innocent = (method == HELD) & (role == "unseen") | (method == twin) & role.isin(["forget", "unseen"])
    return best[innocent]


def strength(access: str) -> int:
    """The place of an access level among attackers, the weakest first; unknown levels are the strongest."""
    return ACCESS_ORDER.index(access) if access in ACCESS_ORDER else len(ACCESS_ORDER)


def survivors(memories: Iterable[str], records: Iterable[Record], calibrations: Mapping[str, Calibration], access: str) -> frozenset[str]:
    """Those of these memories for which an attack of this access level can still change a leak; the rest may be skipped.

    A memory is settled at a level once some attack at or below that level has recovered it, by that level's thresholds. An
    attack counts at its own level and at all above, so it can be skipped where all of these are settled. A memory about which
    nothing was asked yet is not settled. `records` are answers of one model.
    """
    records = list(records)
    best, whole = best_lengths(records), whole_answers(records)
    concerned = [c for level, c in calibrations.items() if strength(level) >= strength(access)]
    settled = pd.Series(bool(concerned), best.index)
    for calibration in concerned:
        settled &= recovered(best, calibration, whole)
    return frozenset(memories) - frozenset(best.index[settled].get_level_values("memory"))


@dataclass(frozen=True)
class Score:
    """The records of one suite, read for every question that a table asks. Series are indexed by (seed, memory).

    Lengths are in tokens, of 64. Where the target is an answer of fewer tokens they are in 64ths of it, so that 64 is always the whole.
    """

    records: list[Record] = field(repr=False)
    twin: str  # "" where no model was retrained: then nothing is subtracted
    diagnostics: tuple[str, ...] = ()  # attacks that are never calibrated, never in the worst case, never in leak

    @cached_property
    def whole(self) -> dict[str, int]:
        """Memories whose target is an answer of fewer than 64 tokens, and how many it has."""
        return whole_answers(self.records)

    @cached_property
    def best(self) -> pd.DataFrame:
        """Tokens of every answer, those to survivors included."""
        return best_lengths(self.records)

    @cached_property
    def fixed(self) -> pd.DataFrame:
        """Tokens of the answers that are asked of every model alike, so that an attack's rates can be compared."""
        return best_lengths(r for r in self.records if not r.extra).reindex(columns=self.best.columns)

    def _scaled(self, tokens: pd.DataFrame) -> pd.DataFrame:
        """Of 64, as tables show them; unchanged without answers."""
        if not self.whole or not len(tokens):
            return tokens
        sizes = tokens.index.get_level_values("memory").map(lambda m: self.whole.get(m, HORIZON)).to_numpy(float)
        return tokens.mul(HORIZON).div(sizes, axis=0)

    @cached_property
    def _opening(self) -> pd.DataFrame:
        return self._asking("exact")

    @cached_property
    def _windows(self) -> pd.DataFrame:
        return self._asking("exact", "window")

    def _asking(self, *kinds: str) -> pd.DataFrame:
        """One column, tokens: the best match over questions of these kinds; NaN where there are none."""
        asked = best_lengths(r for r in self.records if r.asks in kinds).max(axis=1)
        return self._scaled(pd.DataFrame({MATCH: asked if len(asked) else pd.Series(np.nan, self.best.index)}))

    @cached_property
    def attacks(self) -> dict[str, str]:
        """Attack -> access level, in the order of the records; diagnostics are among them."""
        return {r.attack: r.access for r in self.records}

    @cached_property
    def levels(self) -> tuple[str, ...]:
        """The access levels of attacks that count, from the weakest attacker to the strongest."""
        counted = {level for attack, level in self.attacks.items() if attack not in self.diagnostics}
        return tuple(sorted(counted, key=lambda level: (strength(level), level)))

    def up_to(self, access: str) -> list[str]:
        """The attacks that an attacker of this level has: its own and those of all weaker ones, without diagnostics."""
        mine = self.levels[: self.levels.index(access) + 1]
        return [attack for attack, level in self.attacks.items() if level in mine and attack not in self.diagnostics]

    @cached_property
    def calibrations(self) -> dict[str, Calibration]:
        """One per access level, so that a new white-box attack cannot change a black-box leak."""
        null = null_lengths(self.best, self.twin)
        return {access: calibrate(null[self.up_to(access)], self.whole) for access in self.levels}

    def lengths(self, method: str, role: str = "forget") -> pd.DataFrame:
        """Tokens: best match per attack (columns) on every memory of this role, survivors included."""
        return self._scaled(self._tokens("best", method, role))

    def recovered_by(self, method: str, access: str) -> pd.DataFrame:
        """1 or 0 per attack that has a threshold at this level (columns), on every forget memory; NaN where it was not asked."""
        own = dict.fromkeys(self.calibrations[access].quantiles, self.calibrations[access])
        return each_recovered(self._tokens("best", method)[list(own)], own, self.whole)

    def rated(self, method: str, role: str = "forget") -> pd.DataFrame:
        """The same from answers that are asked of every model alike: what per-attack rates are made of."""
        return self._scaled(self._tokens("fixed", method, role))

    def _tokens(self, table: str, method: str, role: str = "forget") -> pd.DataFrame:
        return self._cells[table].get((method, role), _nothing(self.best.columns))

    def opening(self, method: str, role: str = "forget") -> pd.Series:
        """Tokens matched after the exact opening."""
        return self._cells["opening"].get((method, role), _nothing([MATCH]))[MATCH]

    @cached_property
    def _cells(self) -> dict[str, dict[tuple[str, str], pd.DataFrame]]:
        """Each table cut by (method, role)."""
        tables = {"best": self.best, "fixed": self.fixed, "opening": self._opening, "windows": self._windows}
        cut = {name: table.groupby(level=["method", "role"]) for name, table in tables.items()}
        return {
            name: {(str(m), str(r)): part.droplevel(["method", "role", "shown"]) for (m, r), part in parts} for name, parts in cut.items()
        }

    def exact(self, method: str, role: str = "forget") -> pd.Series:
        """True where the exact opening brings back all 64 tokens, or the whole answer."""
        return self.opening(method, role).dropna() >= HORIZON

    def worst(self, method: str, access: str) -> pd.Series:
        """Tokens: the longest match on each forget memory over the attacks up to an access level.

        With early exit a lower bound for memories that are recovered, and exact for the others.
        """
        return self.lengths(method)[self.up_to(access)].max(axis=1)

    def worst_pair(self, method: str, access: str) -> pd.DataFrame:
        """Columns `mine` and `twin`: the longest match over the attacks that were asked of both about this memory; 0 without a twin."""
        mine, twin = (self.lengths(m)[self.up_to(access)] for m in (method, self.twin))
        twin = twin.reindex(mine.index) if self.twin else mine * 0
        both = mine.notna() & twin.notna()
        return pd.DataFrame({"mine": mine[both].max(axis=1), "twin": twin[both].max(axis=1)}).dropna()

    def verbatim(self, method: str) -> pd.Series:
        """Tokens: the verbatim memorised length of each forget memory, the longest match over the windows that were asked."""
        return self._cells["windows"].get((method, "forget"), _nothing([MATCH]))[MATCH]

    def with_excess(self) -> pd.DataFrame:
        """Every record as a row, its match in tokens, with that beyond q_a (`excess`, tokens; NaN where the null allows no q_a)."""
        frame = pd.DataFrame([vars(r) for r in self.records])
        quantiles = {attack: q for c in self.calibrations.values() for attack, q in c.quantiles.items()}
        beyond = frame.matched - frame.attack.map(quantiles).astype(float)
        return frame.assign(censored=frame.matched >= frame.horizon, excess=beyond)

    def recovered_pair(self, method: str, access: str) -> pd.DataFrame:
        """Columns `mine` and `twin`: recovered or not, on the forget memories that the held model reproduces exactly; 0 without a twin."""
        calibration = self.calibrations[access]
        names = {"mine": method, "twin": self.twin or method}
        calls = {k: recovered(self._tokens("best", name), calibration, self.whole) for k, name in names.items()}
        if not self.twin:
            calls["twin"] &= False
        return self._held(pd.DataFrame(calls).dropna().astype(float))

    def recovered_alone(self, method: str) -> pd.DataFrame:
        """1 or 0 per attack (columns): recovered by it alone, at the thresholds of its own level; NaN where it was not asked.

        On the forget memories that the held model reproduces; without columns for attacks that have no threshold.
        """
        own = {a: c for a, level in self.attacks.items() if (c := self.calibrations.get(level)) and a in c.quantiles}
        return self._held(each_recovered(self._tokens("fixed", method)[list(own)], own, self.whole))

    def _held(self, found: pd.DataFrame) -> pd.DataFrame:
        held = self.exact(HELD)
        return found[found.index.isin(held.index[held])]

    def leak(self, method: str, access: str) -> float:
        """Share of memories recovered from the method minus the twin's share, averaged over seeds; NaN if none was held."""
        pair = self.recovered_pair(method, access)
        return float((pair["mine"] - pair["twin"]).groupby("seed").mean().mean())

    def kept(self, method: str) -> pd.Series:
        """True where a keep memory, shown or hidden, comes back whole after the exact opening: what the model should still know."""
        return self.opening(method, "keep").dropna() >= HORIZON

    @property
    def learnt(self) -> bool:
        """Whether the held model repeats enough of the forget memories for forgetting to mean something; if it was asked."""
        rates = self.exact(HELD).groupby("seed").mean()
        return not len(rates) or bool(rates.mean() >= LEARNT)

    def lost(self, method: str) -> pd.Series:
        """1 where a hidden keep memory that the held model reproduces is no longer reproduced, else 0."""
        level = self._opening.index.get_level_values
        hidden = self._opening[(level("role") == "keep") & ~level("shown").to_numpy(bool)][MATCH].droplevel(["role", "shown"])
        again = {m: hidden[hidden.index.get_level_values("method") == m].droplevel("method") >= HORIZON for m in (HELD, method)}
        mine, held = again[method], again[HELD]
        return 1.0 - mine[mine.index.isin(held.index[held])].astype(float)


def _nothing(columns: Iterable[str]) -> pd.DataFrame:
    return pd.DataFrame(columns=list(columns), index=pd.MultiIndex.from_arrays([[], []], names=["seed", "memory"]), dtype=float)
