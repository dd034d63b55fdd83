"""A report folder as data: what `write_report` left there, read back into Results and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from ..benchmark.common.errors import UserError, listed
from ..benchmark.common.facts import RunFacts
from ..benchmark.common.fields import build
from ..benchmark.common.lines import json_lines, read_text
from ..benchmark.common.types import Cost, Quality, Record, Results, TrainingEvaluation, Value

RUN = "run.json"
SCHEMA = 1
T = TypeVar("T")


@dataclass(frozen=True)
class RunFile:
    """What `run.json` holds. Costs are here because no other file of the report has them seed by seed."""

    suite: str
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    twin: str
    diagnostics: tuple[str, ...]
    yardstick: str
    made_of: RunFacts
    costs: tuple[dict[str, Any], ...]
    schema: int = SCHEMA
    kinds: dict[str, str] = field(default_factory=dict)  # of memories that are no passages


def write_run(results: Results, facts: RunFacts, file: Path) -> None:
    """Write the facts of a run; what was not measured is null."""
    costs = tuple(known(asdict(c)) for c in results.costs)
    r = results
    found = RunFile(r.suite, r.seeds, r.methods, r.twin, r.diagnostics, r.yardstick, facts, costs, kinds=r.kinds)
    file.write_text(json.dumps(asdict(found), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_report(folder: Path) -> tuple[Results, RunFacts]:
    """The results in a report folder, without texts side by side, and what they were made of; UserError if anything is missing or wrong."""
    if not folder.is_dir():
        raise UserError(f"There is no report folder {folder}; expected one that palimpsest run or palimpsest report wrote.")
    run = read_run(folder / RUN)
    records = [_record(row) for row in _rows(folder / "records.parquet", Record)]
    if strangers := sorted({r.method for r in records} - {*run.methods, run.twin}):
        raise UserError(
            f"{folder / 'records.parquet'} is about {listed(strangers)}, which {RUN} does not name: the files are of different runs."
        )
    quality = [_quality(row, f"{folder / 'quality.jsonl'}:{n}") for n, row in json_lines(folder / "quality.jsonl")]
    found = Results(
        run.suite,
        run.seeds,
        run.methods,
        run.twin,
        records,
        quality,
        [cost_of(c, str(folder / RUN)) for c in run.costs],
        values=[Value(**row) for row in _rows(folder / "values.parquet", Value)],
        evaluations=[TrainingEvaluation(**row) for row in _rows(folder / "evaluations.parquet", TrainingEvaluation)],
        diagnostics=run.diagnostics,
        yardstick=run.yardstick,
        kinds=run.kinds,
    )
    return found, run.made_of


def read_run(file: Path) -> RunFile:
    """The facts in a `run.json`."""
    if not file.is_file():
        raise UserError(f"There is no {file}. The report is older than that file: palimpsest report writes it anew from finished stages.")
    found = build(RunFile, read_object(file), str(file))
    if found.schema != SCHEMA:
        raise UserError(f"{file} has schema {found.schema}; this version reads schema {SCHEMA}.")
    return found


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        found = json.loads(read_text(file), object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {error if isinstance(error, ValueError) else 'it is nested too deeply'}.") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} holds no JSON object.")
    return found


def known(values: dict[str, Any]) -> dict[str, Any]:
    """The same with null for numbers that are not finite."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def cost_of(row: dict[str, Any], where: str) -> Cost:
    """A cost from its JSON object; null is not measured."""
    if (
        not isinstance(row, dict)
        or not isinstance(row.get("method"), str)
        or not isinstance(row.get("seed"), int)
        or row.keys() - {f.name for f in fields(Cost)}
    ):
        raise UserError(f"{where}: a cost is not method, seed and numbers: {row}.")
    numbers: dict[str, Any] = {k: math.nan if v is None else v for k, v in row.items() if k not in ("method", "seed")}
    if {"seconds", "tokens"} - numbers.keys() or not all(isinstance(v, int | float) for v in numbers.values()):
        raise UserError(f"{where}: a cost without seconds and tokens, or with what is no number: {row}.")
    return Cost(row["method"], row["seed"], **numbers)


def _rows(file: Path, schema: type[Any]) -> Iterable[dict[str, Any]]:
    """The lines of a Parquet file, the fields of a schema alone."""
    names = [f.name for f in fields(schema)]
    try:
        frame = pd.read_parquet(file)
    except (OSError, ValueError) as error:  # pyarrow's errors are either
        raise UserError(f"{file} cannot be read: {str(error).splitlines()[0]}") from None
    if missing := [name for name in names if name not in frame]:
        raise UserError(f"{file} has no column {listed(missing)}; expected those of {schema.__name__} in docs/metrics.md.")
    if len(frame) and (empty := [name for name in names if name != "value" and name != "held_out" and frame[name].isna().any()]):
        raise UserError(f"{file} has empty cells in {listed(empty)}.")
    return frame[names].to_dict("records")  # type: ignore[return-value]


def _record(row: dict[str, Any]) -> Record:
    if not 0 <= row["matched"] <= row["horizon"]:
        raise UserError(
            f"A record of {row['method']} on {row['memory']} matched {row['matched']} tokens of {row['horizon']}: no such length."
        )
    return Record(**row)


def _quality(row: Any, where: str) -> Quality:
    names = {f.name for f in fields(Quality)}
    if not isinstance(row, dict) or row.keys() != names or not isinstance(row["documents"], list):
        raise UserError(f"{where}: expected the fields {', '.join(sorted(names))}.")
    values: dict[str, Any] = row | {"documents": tuple(row["documents"])}
    return Quality(**values)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found
