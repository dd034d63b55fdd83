"""A report folder and a baseline file as one side of a comparison: read back as they were, or refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.facts import RunFacts
from palimpsest.benchmark.common.types import Results
from palimpsest.leaderboard import report
from palimpsest.leaderboard.diff import compare
from palimpsest.leaderboard.report import write_report
from palimpsest.leaderboard.side import read_baseline, side, side_of, write_baseline

from ..synthetic import results

FACTS = RunFacts(base="b", memories="m", row=160, attacks={"prefix": {"lengths": [8, 16]}}, methods={"weak": {"lr": 1e-4}})


@pytest.fixture(scope="module")
def small() -> Results:
    """One seed, 8 memories of each role, as the smoke suite: no thresholds."""
    return results(seeds=(0,), memories=24)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "figures", lambda *_: [])


@pytest.mark.usefixtures("no_figures")
def test_a_report_folder_and_a_baseline_hold_all_that_is_compared(tmp_path: Path) -> None:
    made = results(seeds=(0, 1), memories=150)
    made = replace(made, quality=[replace(q, documents=tuple(x / 3 for x in q.documents)) for q in made.quality])
    old = side_of(made, FACTS)
    assert list(old.calls) == ["black-box"], "300 null values are enough for a leak"
    write_report(made, tmp_path / "report", FACTS)
    read = side(tmp_path / "report")
    write_baseline(read, tmp_path / "baseline.json")
    again = side(tmp_path / "baseline.json")
    for other in (read, again):
        assert other.facts == FACTS
        diff = compare(old, other)
        assert diff.notes == []
        assert {r.why for r in diff.rows if r.measure not in ("cost", "seconds")} == {"all readings are the same"}
    write_baseline(again, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "baseline.json").read_bytes()


def test_a_baseline_keeps_what_was_not_measured(small: Results, tmp_path: Path) -> None:
    gone = replace(small, quality=results(seeds=(0,), memories=24, bits={"weak": float("nan")}).quality)
    write_baseline(side_of(gone, FACTS), tmp_path / "b.json")
    diff = compare(side_of(small, FACTS), read_baseline(tmp_path / "b.json"))
    assert [(r.method, r.measure) for r in diff.worse] == [("weak", "damage")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d | {"schema": 2}, "no baseline of schema 1"),
        (lambda d: {"schema": 1}, "no whole baseline"),
        (lambda d: d | {"forget": [*d["forget"], d["forget"][0]]}, "stands twice"),
        (lambda d: d | {"forget": [[*d["forget"][0][:4], ["64"] * 3, []]]}, "no whole baseline"),
        (lambda d: d | {"forget": [[*d["forget"][0][:4], [64], []]]}, "no whole baseline"),
        (lambda d: d | {"forget": [[*d["forget"][0][:4], [-1, 2.5, 0], []]]}, "no number of tokens"),
        (lambda d: d | {"costs": [{"method": "weak"}]}, "a cost"),
        (lambda d: d | {"made_of": {"bse": "x"}}, "no field named 'bse'"),
    ],
)
def test_a_baseline_that_is_not_whole_is_refused(change: Any, message: str, small: Results, tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    write_baseline(side_of(small, FACTS), file)
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(UserError, match=message):
        side(file)


@pytest.mark.usefixtures("no_figures")
def test_a_report_folder_that_is_not_whole_is_refused(small: Results, tmp_path: Path) -> None:
    write_report(small, tmp_path / "whole", FACTS)

    def written(name: str) -> Path:
        return Path(shutil.copytree(tmp_path / "whole", tmp_path / name))

    (written("a") / "run.json").unlink()
    (written("b") / "records.parquet").unlink()
    frame = pd.read_parquet(written("c") / "records.parquet")
    frame.drop(columns="asks").to_parquet(tmp_path / "c" / "records.parquet")
    written("d")
    frame.assign(matched=65).to_parquet(tmp_path / "d" / "records.parquet")
    written("e")
    frame.replace({"method": {"weak": "other"}}).to_parquet(tmp_path / "e" / "records.parquet")
    (written("f") / "run.json").write_text('{"suite": "a", "suite": "b"}')
    (written("g") / "records.parquet").write_text("no parquet")
    messages = {
        "a": "no .*run.json.*palimpsest report writes it anew", "b": "cannot be read", "c": "no column asks",
        "d": "matched 65 tokens of 64",
        "e": "about other, which run.json does not name", "f": "a key stands twice",
        "g": "cannot be read", "h": "There is no report folder",
    }  # fmt: skip
    for name, message in messages.items():
        with pytest.raises(UserError, match=message):
            side(tmp_path / name)
