"""Pages of suites of questions: sets without never-seen or kept memories, and answers shorter than 64 tokens."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import reduce

import pytest

from palimpsest.benchmark.common.facts import RunFacts
from palimpsest.benchmark.common.types import HORIZON, Results
from palimpsest.benchmark.scoring.score import Score
from palimpsest.leaderboard.curves import attack_curves, prompt_length_curves
from palimpsest.leaderboard.dead_weight import alone
from palimpsest.leaderboard.grids import grids
from palimpsest.leaderboard.headline import dead_weight_rule, headline
from palimpsest.leaderboard.operating_curves import back_words
from palimpsest.leaderboard.report import render
from palimpsest.leaderboard.side import side_of
from palimpsest.leaderboard.tables import MainTable, main_table
from palimpsest.leaderboard.terminal import table_lines

from ..synthetic import battery, results

ANSWER = 4  # tokens


def only(found: Results, *roles: str) -> Results:
    return replace(found, records=[r for r in found.records if r.role in roles], values=[v for v in found.values if v.role in (*roles, "")])


def shortened(found: Results) -> Results:
    """The same about answers of four tokens."""
    return replace(found, records=[replace(r, matched=r.matched * ANSWER // HORIZON, horizon=ANSWER) for r in found.records])


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
    asked = shortened(found)
    score, passages = Score(asked.records, found.twin), Score(found.records, found.twin)
    assert score.exact("none").mean() == passages.exact("none").mean() > 0.9
    assert attack_curves(asked, "none")["exact opening"][HORIZON] == attack_curves(found, "none")["exact opening"][HORIZON]
    variants = prompt_length_curves(asked, "none")
    assert variants
    assert all(curve[0] == 1 and curve[HORIZON] > 0 for lines in variants.values() for curve in lines.values())
    assert main_table(asked).rows[0].method == main_table(found).rows[0].method


UNIT = re.compile(r"\btokens?\b", re.IGNORECASE)
STILL = (
    "by the length of the prompt in tokens",
    "per token",
    "Tokens: of all rows trained on",
    "Tokens. q:",
    "thousand tokens",
    "above 8 tokens",
    "masked gradients, tokens",
    "edit of one token",
)


@pytest.mark.parametrize("memories", [48, 192])
def test_where_targets_are_short_answers_no_title_and_no_caption_calls_a_length_tokens(memories: int) -> None:
    passages = battery(memories=memories, seeds=(0, 1, 2)) if memories > 100 else battery()
    texts = {name: _said(main_table(found)) for name, found in (("answers", shortened(passages)), ("passages", passages))}
    assert [t for t in texts["answers"] if UNIT.search(_without_what_stays(t))] == []
    assert any("Lengths are in 64ths of the answer" in t for t in texts["answers"])
    assert not any("64th" in t for t in texts["passages"])
    counted = {"Worst 64ths"} | ({"Excess 64ths"} if memories < 100 else set())
    assert counted <= set(texts["answers"])


def test_the_terminal_shows_the_same_columns_in_the_unit_of_the_suite() -> None:
    for found, unit in ((battery(), "tokens"), (shortened(battery()), "64ths")):
        lines = [line.plain for line in table_lines(main_table(found), 80)]
        assert lines[0].split() == ["Exact", "Worst", "Excess", "Damage", "Keeps"]
        assert lines[1].split()[1:4] == ["%", unit, unit]


def test_comparisons_and_dead_weight_judge_answers_by_tokens_as_leak_does() -> None:
    """One token of four is a quarter of the answer: 16 in tables, and below every threshold."""
    found = results(("none", "weak"), memories=192)
    one = [replace(r, matched=ANSWER if r.method == "none" else 1, horizon=ANSWER) for r in found.records]
    asked = replace(found, records=[r if r.role == "forget" else replace(r, matched=0) for r in one])
    score = Score(asked.records, asked.twin)
    calls = side_of(asked, RunFacts(base="b", memories="m", row=160, attacks={}, methods={})).calls
    for method, share in (("none", 1.0), ("weak", 0.0)):
        assert score.lengths(method).to_numpy().max() == HORIZON * (1 if share else 1 / ANSWER)
        assert calls.xs(method, level="method").mean().to_dict() == {"black-box": share}
        assert score.recovered_pair(method, "black-box")["mine"].mean() == share
    assert alone(score, "weak", "black-box") == set()


def _said(table: MainTable) -> list[str]:
    """Titles, captions and the headline."""
    rule = dead_weight_rule(table.access, table.unit)
    return [text for grid in grids(table) for text in (*grid.header, grid.explained)] + [headline(table), rule, back_words(table)]


def _without_what_stays(text: str) -> str:
    return reduce(lambda t, words: re.sub(re.escape(words), "", t, flags=re.IGNORECASE), STILL, text)
