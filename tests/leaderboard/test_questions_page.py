"""Pages of suites of questions: sets without never-seen or kept memories, and answers shorter than 64 tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from palimpsest.benchmark.common.types import HORIZON, Results
from palimpsest.benchmark.scoring.score import Score
from palimpsest.leaderboard.curves import attack_curves, prompt_length_curves
from palimpsest.leaderboard.report import render
from palimpsest.leaderboard.tables import main_table

from ..synthetic import battery, results

ANSWER = 4  # tokens


def only(found: Results, *roles: str) -> Results:
    return replace(found, records=[r for r in found.records if r.role in roles], values=[v for v in found.values if v.role in (*roles, "")])


@pytest.mark.parametrize("roles", [("forget",), ("forget", "unseen")], ids=" ".join)
def test_a_set_without_kept_or_never_seen_memories_has_a_page(roles: tuple[str, ...]) -> None:
    found = only(results(("none", "weak"), memories=12, seeds=(0,)), *roles)
    assert {row.method for row in main_table(found).rows} >= {"none", "weak"}
    assert "weak" in render(found, "md")


def test_membership_and_flags_do_without_never_seen_memories() -> None:
    found = only(battery(memories=12, seeds=(0,)), "forget", "keep")
    assert any(v.quantity == "loss" for v in found.values)
    assert "none" in render(found, "md")


def test_tables_and_curves_of_short_answers_say_how_much_of_them_comes_back() -> None:
    found = results(("none", "weak"), memories=12, seeds=(0,))
    short = [replace(r, matched=r.matched * ANSWER // HORIZON, horizon=ANSWER) for r in found.records]
    asked = replace(found, records=short)
    score, passages = Score(short, found.twin), Score(found.records, found.twin)
    assert score.exact("none").mean() == passages.exact("none").mean() > 0.9
    assert attack_curves(asked, "none")["exact opening"][HORIZON] == attack_curves(found, "none")["exact opening"][HORIZON]
    variants = prompt_length_curves(asked, "none")
    assert variants
    assert all(curve[0] == 1 and curve[HORIZON] > 0 for lines in variants.values() for curve in lines.values())
    assert main_table(asked).rows[0].method == main_table(found).rows[0].method
