"""Results of models from elsewhere without a retrained one: every page is there, and nothing is subtracted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.facts import RunFacts
from palimpsest.benchmark.common.types import Results
from palimpsest.benchmark.scoring.score import Score
from palimpsest.leaderboard.comparable import comparable
from palimpsest.leaderboard.grids import grids
from palimpsest.leaderboard.report import render
from palimpsest.leaderboard.side import side_of
from palimpsest.leaderboard.tables import main_table

from ..synthetic import battery, results


def alone(found: Results) -> Results:
    """The same without the twin, as a run without a retrained model has it."""
    kept = {k: [x for x in getattr(found, k) if x.method != found.twin] for k in ("records", "values", "quality", "costs")}
    return replace(found, twin="", methods=tuple(m for m in found.methods if m != "retrain"), **kept)


def test_pages_have_no_row_and_no_numbers_of_a_model_that_there_is_not() -> None:
    page = render(alone(battery(memories=12, seeds=(0,))), "md")
    assert "| weak" in page
    assert "| the twin |" not in page
    assert "No retrained model: nothing is subtracted" in page
    assert "The twin itself" not in page
    assert "weak" in render(alone(results(("none", "weak"), memories=12, seeds=(0,))), "html"), "figures too"


def test_a_table_whose_every_cell_compares_is_left_out_and_what_was_measured_alone_is_shown() -> None:
    found = alone(battery(memories=12, seeds=(0,)))
    tables = {g.key: g for g in grids(main_table(found))}
    assert "gains" not in tables
    assert "membership" in tables
    held = tables["extraction"].rows[0].cells
    assert [c.text for c in held[:2]] == ["none", "100.0"]
    assert "twin" not in tables["extraction"].caption
    nothing_unseen = replace(found, values=[v for v in found.values if v.role != "unseen"])
    assert "membership" not in {g.key for g in grids(main_table(nothing_unseen))}


def test_thresholds_are_of_never_seen_texts_alone_and_leak_is_what_is_recovered() -> None:
    found = results(("none", "weak", "strong"), memories=900, seeds=(0,))
    with_twin, without = (Score(f.records, f.twin) for f in (found, alone(found)))
    assert without.calibrations["black-box"].size == 300
    assert with_twin.calibrations["black-box"].size == 900
    pair = without.recovered_pair("weak", "black-box")
    assert (pair["twin"] == 0).all()
    assert without.leak("weak", "black-box") == pytest.approx(pair["mine"].mean())
    assert (without.worst_pair("weak", "black-box")["mine"] == without.worst("weak", "black-box")).all()


def test_damage_is_against_the_held_model() -> None:
    found = alone(results(("none", "weak"), memories=12, seeds=(0,), bits={"weak": 1.5, "none": 1.0}))
    rows = {r.method: r for r in main_table(found).rows}
    assert rows["none"].utility.damage.value == 0
    assert rows["weak"].utility.damage.value == pytest.approx(50, abs=5)
    assert math.isnan(rows["weak"].further.forget_quality.p)


def test_runs_without_a_retrained_model_are_not_compared() -> None:
    side = side_of(alone(results(("none", "weak"), memories=12, seeds=(0,))), RunFacts())
    with pytest.raises(UserError, match="retrained="):
        comparable(side, side)
