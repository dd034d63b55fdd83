"""One side of a comparison: what `palimpsest diff` reads of a run, from its report folder or from a baseline, a small file of the same."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..benchmark.common.errors import UserError
from ..benchmark.common.facts import RunFacts
from ..benchmark.common.fields import build
from ..benchmark.common.types import HELD, Cost, Quality, Results
from ..benchmark.scoring.score import Score
from .damage import damages, main_task
from .runs import cost_of, known, read_object, read_report

SCHEMA = 1
INDEX = ["method", "seed", "memory"]
OPENING = "opening"  # column: tokens after the exact opening


@dataclass(frozen=True)
class Side:
    """Frames are indexed by (method, seed, memory); the retrained twin and the held model are among the methods."""

    suite: str
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    twin: str
    levels: dict[str, str]  # attack that counts -> its access level
    facts: RunFacts = field(repr=False)
    opening: pd.Series = field(repr=False)  # tokens after the exact opening, forget memories
    lengths: pd.DataFrame = field(repr=False)  # tokens, forget memories: the best match of each attack that counts; NaN where not asked
    calls: pd.DataFrame = field(repr=False)  # recovered or not (1, 0), forget memories: a column per calibrated access level
    keep: pd.Series = field(repr=False)  # tokens after the exact opening, hidden keep memories
    quality: dict[tuple[str, int], Quality] = field(repr=False)  # the yardstick's task
    costs: dict[tuple[str, int], Cost] = field(repr=False)

    @property
    def access(self) -> tuple[str, ...]:
        """The access levels, from the weakest attacker to the strongest."""
        return tuple(dict.fromkeys(self.levels.values()))

    def up_to(self, access: str) -> list[str]:
        """The attacks that an attacker of this level has."""
        mine = self.access[: self.access.index(access) + 1]
        return [attack for attack, level in self.levels.items() if level in mine]


def cut(table: Any, method: str, seed: int) -> Any:
    """The part of a frame or series that is about one method in one seed, by memory."""
    try:
        return table.xs((method, seed), level=("method", "seed"))
    except KeyError:
        return table.iloc[:0].droplevel(["method", "seed"])


def side(path: Path) -> Side:
    """What a report folder or a baseline file holds for comparisons; UserError for anything else."""
    return read_baseline(path) if path.is_file() else side_of(*read_report(path))


def side_of(results: Results, facts: RunFacts) -> Side:
    """The same of results."""
    score = Score(results.records, results.twin, results.diagnostics)
    if not score.levels:
        raise UserError(f"The results of suite {results.suite!r} hold no records; run the suite first.")
    asked = set(score.best.index.get_level_values("method"))
    everyone = [m for m in dict.fromkeys((HELD, results.twin, *results.methods)) if m in asked]
    levels = {a: level for at in score.levels for a, level in score.attacks.items() if level == at and a not in score.diagnostics}
    tables = {m: score.lengths(m)[list(levels)] for m in everyone}
    calls = {m: _calls(score, m) for m in everyone}
    found = [damages(results.quality, m, results.undamaged) for m in (*results.methods, results.twin)]
    cells = [c for tasks in found if (c := main_task(tasks, results.yardstick))]
    metric = cells[0].metric if cells else ""
    return Side(
        suite=results.suite,
        seeds=results.seeds,
        methods=results.methods,
        twin=results.twin,
        levels=levels,
        facts=facts,
        opening=_stacked({m: score.opening(m) for m in everyone}),
        lengths=_stacked(tables),
        calls=_stacked(calls),
        keep=_stacked({m: _hidden(results, score, m) for m in everyone}),
        quality={(q.method, q.seed): _rounded(q) for q in results.quality if (q.task, q.metric) == (results.yardstick, metric)},
        costs={(c.method, c.seed): c for c in results.costs},
    )


def _rounded(q: Quality) -> Quality:
    """Documents with seven digits, as a baseline keeps them."""
    return replace(q, documents=tuple(float(f"{x:.7g}") for x in q.documents))


def _calls(score: Score, method: str) -> pd.DataFrame:
    """Whether each memory is recovered, at the levels that have thresholds."""
    found = {level: score.recovered_by(method, level).eq(1).any(axis=1) for level, c in score.calibrations.items() if c.possible}
    return pd.DataFrame(found, score.lengths(method).index).astype(float)


def _hidden(results: Results, score: Score, method: str) -> pd.Series:
    """Tokens after the exact opening on hidden keep memories, the held model's among them whatever they are."""
    shown = {(r.seed, r.memory) for r in results.records if r.role == "keep" and r.shown}
    kept = score.opening(method, "keep").dropna()
    return kept[[at not in shown for at in kept.index]]


def _stacked(parts: dict[str, Any]) -> Any:
    return pd.concat(parts, names=["method"]).sort_index().rename_axis(INDEX)


# ---- the baseline file


def write_baseline(found: Side, file: Path) -> None:
    """A side as JSON, a memory a line, so that a change of it can be read in a review."""
    rows = found.lengths.join(found.calls).join(found.opening.rename(OPENING))
    head = {
        "schema": SCHEMA,
        "suite": found.suite,
        "seeds": found.seeds,
        "methods": found.methods,
        "twin": found.twin,
        "attacks": found.levels,
        "calibrated": list(found.calls.columns),
        "made_of": asdict(found.facts),
    }
    attacks, calls = list(found.levels), list(found.calls.columns)
    lists = {
        # method, seed, memory, tokens after the opening, tokens of each attack, recovered or not at each calibrated level
        "forget": [[*at, _whole(r[OPENING]), [_whole(r[a]) for a in attacks], [_whole(r[c]) for c in calls]] for at, r in _lines(rows)],
        "keep": [[*at, _whole(x)] for at, x in zip(map(_at, found.keep.index), found.keep.to_list(), strict=True)],
        "quality": [known(vars(q) | {"documents": [_number(x) for x in q.documents]}) for q in found.quality.values()],
        "costs": [known(vars(c)) for c in found.costs.values()],
    }
    texts = [f'"{k}": {json.dumps(v, allow_nan=False)}' for k, v in head.items()]
    texts += [f'"{k}": [\n' + ",\n".join(json.dumps(v, allow_nan=False) for v in rows) + "\n]" for k, rows in lists.items()]
    file.write_text("{\n" + ",\n".join(texts) + "\n}\n", encoding="utf-8")


def read_baseline(file: Path) -> Side:
    """The side that `write_baseline` wrote; UserError for any other file."""
    found = read_object(file)
    if found.get("schema") != SCHEMA:
        raise UserError(f"{file} is no baseline of schema {SCHEMA}; palimpsest diff REPORT --save-baseline {file} writes one.")
    try:
        return _side(found, str(file))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{file} is no whole baseline ({type(error).__name__}: {error}); write it anew with --save-baseline.") from None


def _side(found: dict[str, Any], where: str) -> Side:
    attacks, calls = list(found["attacks"]), list(found["calibrated"])
    rows, keep = found["forget"], found["keep"]
    index = _index([r[:3] for r in rows], where)
    opening = pd.Series([_read(r[3]) for r in rows], index, float)
    lengths = pd.DataFrame([dict(zip(attacks, map(_read, r[4]), strict=True)) for r in rows], index, attacks, float)
    called = pd.DataFrame([dict(zip(calls, map(_read, r[5]), strict=True)) for r in rows], index, calls, float)
    if ((lengths < 0) | (lengths.mod(1) > 0)).any(axis=None) or not called.isin([0, 1]).where(called.notna(), True).all(axis=None):
        raise ValueError("a length that is no number of tokens, or a call that is neither 0 nor 1")
    quality = [
        Quality(**q | {k: _read(q[k]) for k in ("value", "stderr")} | {"documents": tuple(map(_read, q["documents"]))})
        for q in found["quality"]
    ]
    return Side(
        suite=str(found["suite"]),
        seeds=tuple(int(s) for s in found["seeds"]),
        methods=tuple(map(str, found["methods"])),
        twin=str(found["twin"]),
        levels={str(k): str(v) for k, v in found["attacks"].items()},
        facts=build(RunFacts, found["made_of"], f"{where}: made_of"),
        opening=opening.sort_index(),
        lengths=lengths.sort_index(),
        calls=called.sort_index(),
        keep=pd.Series([_read(r[3]) for r in keep], _index([r[:3] for r in keep], where), float).sort_index(),
        quality={(q.method, q.seed): q for q in quality},
        costs={(c.method, c.seed): c for c in (cost_of(row, where) for row in found["costs"])},
    )


def _index(rows: list[list[Any]], where: str) -> pd.MultiIndex:
    index = pd.MultiIndex.from_tuples([(str(m), int(s), str(name)) for m, s, name in rows], names=INDEX)
    if index.has_duplicates:
        raise UserError(f"{where}: {index[index.duplicated()][0]} stands twice.")
    return index


def _lines(frame: pd.DataFrame) -> Iterator[tuple[list[Any], pd.Series]]:
    for at, row in frame.iterrows():
        yield _at(at), row


def _at(at: Any) -> list[Any]:
    method, seed, memory = at
    return [str(method), int(seed), str(memory)]


def _whole(x: float) -> int | None:
    return None if np.isnan(x) else int(x)


def _number(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _read(x: float | None) -> float:
    if x is not None and not isinstance(x, int | float):
        raise ValueError(f"{x!r} is no number")
    return math.nan if x is None else float(x)
