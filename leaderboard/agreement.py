"""Do two runs rank their methods alike? A rank correlation over the methods that both have, from the same memories.

`python -m palimpsest.leaderboard.agreement REPORT REPORT`: two report folders, of two base models, say, or of two settings.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from ..benchmark.common.errors import UserError
from .damage import damages
from .flags import COLLAPSED
from .side import Side, cut, side
from .statistics import Estimate, bootstrap_interval
from .tables import REFERENCES

ACCESS = "black-box"
LEAST = 3  # methods: of two a rank correlation is a coin's side


@dataclass(frozen=True)
class Agreement:
    """`values`: tokens beyond the twin, a row for each method and a column for each run, most forgetful first in the first run.

    `correlation`: Spearman's, between -1 and 1; its interval is over memories, which are drawn for both runs together.
    """

    values: pd.DataFrame
    correlation: Estimate
    attacks: tuple[str, ...]
    collapsed: tuple[str, ...]  # methods that are left out, since their quality collapsed in one run: no table ranks these
    all: Estimate  # the correlation with these counted as if they had forgotten


def agreement(mine: Side, other: Side) -> Agreement:
    """Both sides must have read the same memories, in the same seeds; only attacks and methods that both have count."""
    if without := [s.suite for s in (mine, other) if not s.twin]:
        raise UserError(f"The run of suite {without[0]} has no retrained twin; expected tokens beyond one in both runs.")
    attacks = [a for a in _counted(mine) if a in _counted(other)]
    both = [m for m in mine.methods if m in other.methods and m not in REFERENCES]
    collapsed = [m for m in both if any(_damage(s, m) > COLLAPSED for s in (mine, other))]
    methods = [m for m in both if m not in collapsed]
    if len(methods) < LEAST or not attacks:
        raise UserError(
            f"Both runs have {len(methods)} methods that did not collapse and {len(attacks)} {ACCESS} attacks in common; "
            f"expected {LEAST} methods and an attack."
        )
    tables = [_excess(s, both, attacks) for s in (mine, other)]
    if not tables[0].index.equals(tables[1].index):
        raise UserError(f"The runs read other memories ({len(tables[0])} and {len(tables[1])}); expected the same in the same seeds.")
    first, second = (t.mean() for t in tables)
    values = pd.DataFrame({"first": first, "second": second}).loc[methods].sort_values("first", kind="stable")
    return Agreement(values, _correlation(tables, methods), tuple(attacks), tuple(collapsed), _correlation(tables, both))


def _correlation(tables: Sequence[pd.DataFrame], methods: Sequence[str]) -> Estimate:
    """Spearman's between the mean values of these methods in both tables; the interval is over memories, drawn for both together."""
    a, b = (t[list(methods)].to_numpy() for t in tables)

    def of(rows: np.ndarray) -> float:
        return float(stats.spearmanr(a[rows].mean(0), b[rows].mean(0))[0])  # pyright: ignore

    every = np.arange(len(a))
    return Estimate(of(every), *bootstrap_interval(of, every), count=len(a))


def _counted(found: Side) -> list[str]:
    """The attacks of the run that count; none where all need more access."""
    return found.up_to(ACCESS) if ACCESS in found.access else []


def _damage(found: Side, method: str) -> float:
    """Quality lost against the twin by the suite's yardstick, in %; NaN where it was not measured."""
    cells = damages(found.quality.values(), method, found.twin)
    return cells[0].damage.value if cells else math.nan


def _excess(found: Side, methods: Sequence[str], attacks: Sequence[str]) -> pd.DataFrame:
    """Of each memory (rows: seed, memory) and method the best match minus the twin's, over the attacks that were asked of both."""
    parts = {}
    for seed in found.seeds:
        twin = cut(found.lengths, found.twin, seed)[list(attacks)]
        columns = {}
        for method in methods:
            mine = cut(found.lengths, method, seed)[list(attacks)]
            theirs = twin.reindex(mine.index)
            both = mine.notna() & theirs.notna()
            columns[method] = mine[both].max(axis=1) - theirs[both].max(axis=1)
        parts[seed] = pd.DataFrame(columns).sort_index()
    return pd.concat(parts).dropna()


def main(arguments: Sequence[str]) -> None:
    """Print what both runs say of each method, and the rank correlation."""
    if len(arguments) != 2:
        sys.exit("Usage: python -m palimpsest.leaderboard.agreement REPORT REPORT (folders of two reports)")
    try:
        found = agreement(*(side(Path(a)) for a in arguments))
    except UserError as error:
        sys.exit(f"Error: {error}")
    c = found.correlation
    print(found.values.round(1).to_string())
    print(f"Tokens beyond the twin, best of {', '.join(found.attacks)} on each of {c.count} memories.")
    print(f"Spearman's rank correlation over {len(found.values)} methods: {_said(c)}")
    if found.collapsed:
        print(f"Left out, as in tables, since quality collapsed in a run: {', '.join(found.collapsed)}. With them: {_said(found.all)}")


def _said(e: Estimate) -> str:
    return f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}]"


if __name__ == "__main__":
    main(sys.argv[1:])
