"""What an attack stage keeps is read back as it was written, with a column for every field."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pandas as pd

from palimpsest.benchmark.battery.answers import BestAnswer, read_answers, read_findings, write_answers
from palimpsest.benchmark.common.types import Finding, Record, Value

PLAIN = BestAnswer("a", "prefix", "opening", "black-box", 0, 0, 16, "Once upon", 3, 64)
CHANGED = BestAnswer("b", "relearn", "20%/prefix", "weights", 3, 0, 8, "Once", 64, 64, fold=1, dose="20%", inner="prefix")
FINDINGS = [Finding("a", "matched", 3.0, 0, "20%", 5), Finding("", "covered", 0.5), Finding("b", "exposure", 2.0)]


def test_answers_and_findings_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_answers(tmp_path, [PLAIN, CHANGED], FINDINGS, {"b"})
    assert read_answers(tmp_path) == [PLAIN, replace(CHANGED, extra=True)]
    assert read_findings(tmp_path) == FINDINGS


def test_tables_of_nothing_have_their_columns_too(tmp_path: Path) -> None:
    write_answers(tmp_path, [], [], set())
    assert read_answers(tmp_path) == read_findings(tmp_path) == []
    assert list(pd.read_parquet(tmp_path / "answers.parquet")) == [f.name for f in fields(BestAnswer)]
    assert list(pd.read_parquet(tmp_path / "findings.parquet")) == [f.name for f in fields(Finding)]


def test_what_no_trajectory_gave_has_step_minus_one_and_the_column_holds_integers(tmp_path: Path) -> None:
    write_answers(tmp_path, [], FINDINGS, set())
    steps = pd.read_parquet(tmp_path / "findings.parquet").step
    assert (steps.dtype, steps.tolist()) == ("int64", [5, -1, -1])


def test_records_and_values_take_over_every_field() -> None:
    assert {f.name for f in fields(BestAnswer)} <= {f.name for f in fields(Record)}
    assert {f.name for f in fields(Finding)} <= {f.name for f in fields(Value)}
