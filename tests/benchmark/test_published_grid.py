"""The table of published measures: what a number is of, when it has an interval, and what is not known."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from palimpsest.benchmark.common.answer_reading import AnswerReading
from palimpsest.leaderboard import published_grid
from palimpsest.leaderboard.cells import Cell
from palimpsest.leaderboard.published_grid import published_grids
from tests.benchmark.published_cases import LOG, said

MISS, HIT = (False, False), (True, True)


def table(*readings: AnswerReading) -> dict[str, dict[str, Cell]]:
    """Model -> title -> cell."""
    results: Any = SimpleNamespace(methods=("npo",), twin="twin", published=readings)
    (grid,) = published_grids(results)
    cells = {row.cells[0].text: dict(zip(grid.header[1:], row.cells[1:], strict=True)) for row in grid.rows}
    return cells if grid.header[0] == "Method" else {m: {title: row[m] for title, row in cells.items()} for m in grid.header[1:]}


def test_passages_and_questions_are_two_columns_where_a_set_brings_both() -> None:
    passage, question = said("p", kind="passage", likeliest=MISS), said("q", likeliest=HIT)
    both = table(passage, question)["none"]
    assert (both["Extraction strength, passages"].text, both["Extraction strength, questions"].text) == ("0.000", "1.000")
    assert "Extraction strength" not in both
    assert "Probability, passages" in both
    assert "Extraction strength" in table(passage)["none"], "one kind alone has the measure's own name"


def test_shares_have_wilsons_interval_and_equal_values_none() -> None:
    right = [said(f"c{i}", kind="choice", wrong=(LOG(0.2),)) for i in range(4)]
    assert table(*right)["none"]["Accuracy of choices"].interval == "[0.510, 1.000]"
    assert table(*right)["none"]["Exact memorisation"].interval == ""
    assert table(*right[1:], said("c0", kind="choice", likeliest=MISS))["none"]["Exact memorisation"].interval != ""


def question(i: int, method: str, right: float, wrong: float, **more: Any) -> AnswerReading:
    return said(f"q{i}", method=method, right=(right,), wrong=(wrong,), **more)


def test_forget_quality_says_over_how_many_questions_and_shows_the_exponent() -> None:
    many = [question(i, m, 0.0, LOG(w + i / 1000)) for i in range(20) for m, w in (("npo", 0.2), ("twin", 0.8))]
    cell = table(*many)["npo"]["Forget quality"]
    assert (cell.text, cell.note) == ("p 1e-11", "D 1.00, 20 questions")
    assert table(*many)["the twin"]["Forget quality"].text == "p 1"


def test_a_p_beyond_what_a_number_can_be_is_told_as_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_grid, "forget_quality", lambda *_: (1.0, 0.0))
    known = [question(0, m, LOG(0.5), LOG(0.1)) for m in ("npo", "twin")]
    assert table(*known)["npo"]["Forget quality"].text == "p <1e-300"


@pytest.mark.parametrize(("infinite", "p", "distance"), [(2, "p .771", "D 0.50"), (4, "p .029", "D 1.00")])
def test_an_infinite_ratio_is_the_largest(infinite: int, p: str, distance: str) -> None:
    """The wrong answer is e^1000 times as likely: public code divides by P + 1e-10 there."""
    mine = [question(i, "npo", -1000.0 if i < infinite else LOG(0.5), 0.0 if i < infinite else LOG(0.1)) for i in range(4)]
    cell = table(*mine, *(question(i, "twin", LOG(0.5), LOG(0.1)) for i in range(4)))["npo"]["Forget quality"]
    assert (cell.text, cell.note) == (p, f"{distance}, 4 questions")


def test_one_unknown_ratio_leaves_forget_quality_unknown_like_the_truth_ratio() -> None:
    known = [question(i, m, LOG(0.5), LOG(0.1)) for i in range(1, 4) for m in ("npo", "twin")]
    found = table(*known, question(0, "npo", math.nan, LOG(0.1)), question(0, "twin", LOG(0.5), LOG(0.1)))["npo"]
    assert (found["Forget quality"].text, found["Truth ratio"].text) == ("–", "–")


def test_forget_quality_is_of_seeds_that_both_models_have() -> None:
    seeds = [question(i, m, LOG(0.5), LOG(0.1), seed=s) for i in range(3) for m, s in (("npo", 0), ("npo", 1), ("twin", 0))]
    assert table(*seeds)["npo"]["Forget quality"].note == "D 0.00, 3 questions"


def test_privleak_says_of_how_many_texts() -> None:
    passages = [
        said(f"{role}{i}", method=m, role=role, kind="passage", log_probabilities=(LOG(v),))
        for m in ("npo", "twin")
        for role, values in (("forget", (0.3, 0.5)), ("unseen", (0.2, 0.4, 0.6)))
        for i, v in enumerate(values)
    ]
    cell = table(*passages)["npo"]["PrivLeak (MUSE)"]
    assert (cell.text, cell.note) == ("0.0", "2 against 3")
