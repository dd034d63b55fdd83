"""The sheet of costs: the tokens of the plan's own stages, divided by rates that somebody measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.running.costs import main, sheet, table
from palimpsest.benchmark.running.estimate import Rates
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.suites.config import Suite

SLOW = Rates(trained=100, asked=1000, scored=1000, said=10)


@pytest.fixture
def run(suite: Suite, tmp_path: Path) -> Run:
    return Run(replace(suite, attacks={"prefix": {}, "quantise": {}}, precision="fp32"), Store(tmp_path))


def test_every_stage_of_a_row_and_of_what_rows_share_is_counted_once(run: Run) -> None:
    found = sheet(run, "npo", SLOW)
    stages = {part: {c.what: c.stages for c in kinds} for part, kinds in found.items()}
    two_attacks = 2  # quantise, and the model as it is, with which it is compared
    assert stages["shared"] == {"quality": 3, "held": 1, "twin": 1, "battery": 2, "attack": 2 * two_attacks, "checks": 2}
    assert stages["row"] == {"method": 1, "battery": 1, "attack": two_attacks, "checks": 1, "quality": 1}
    held = next(c for c in found["shared"] if c.what == "held")
    assert 1000 * held.trained == run.held(0).work().trained
    assert 3600 * held.hours == pytest.approx(run.held(0).work().trained / 100 + 1)


def test_training_twice_as_fast_takes_half_of_the_time_and_asking_the_same(run: Run) -> None:
    slow, fast = (sheet(run, "npo", rates)["row"] for rates in (SLOW, replace(SLOW, trained=200)))
    assert [a.hours - b.hours for a, b in zip(slow, fast, strict=True)] == pytest.approx([10 * c.trained / 2 / 3600 for c in slow])


def test_what_opening_a_large_model_takes_is_added_to_every_stage(run: Run) -> None:
    plain, slow = (sheet(run, "npo", SLOW, opens)["row"] for opens in (0, 36))
    assert [b.hours - a.hours for a, b in zip(plain, slow, strict=True)] == pytest.approx([c.stages / 100 for c in plain])


def test_the_table_has_a_line_for_each_kind_and_the_sums(run: Run) -> None:
    lines = table(sheet(run, "npo", SLOW)).splitlines()
    assert len(lines) == 2 + 6 + 1 + 5 + 1
    assert len({line.count("|") for line in lines}) == 1


def test_what_is_missing_is_told(run: Run) -> None:
    with pytest.raises(UserError, match="expected one of"):
        sheet(run, "none", SLOW)
    with pytest.raises(UserError, match="trained=NUMBER, asked=NUMBER"):
        main(["suite=pocket", "method=npo", "trained=1"])
