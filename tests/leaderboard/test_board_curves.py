"""Curves on the board, from made-up entries: frontiers, what budgets buy, survival in every row, and relearning."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from palimpsest.leaderboard.board import charts
from palimpsest.leaderboard.board.curves import curves_of
from palimpsest.leaderboard.board.rows import tracks
from palimpsest.leaderboard.board.site import beside, differences, renew, site
from palimpsest.leaderboard.entry import Entry, Point
from palimpsest.leaderboard.entry_of import entry_of, rounded
from palimpsest.leaderboard.entry_values import Number
from palimpsest.leaderboard.reproduction import numbers
from palimpsest.leaderboard.tables import main_table

from ..board import around, made, only_draw
from ..entries import about, made_results

# Value of the field -> leak (share), collateral (points), damage (%). The third is beaten by the second, the last has collapsed.
POINTS = {1e-5: (0.9, 2.0, 1.0), 2e-5: (0.6, 20.0, 3.0), 4e-5: (0.7, 40.0, 6.0), 8e-5: (0.3, 80.0, 9.0), 1e-4: (0.0, 100.0, 95.0)}


def point(value: float, leak: float, collateral: float, damage: float) -> Point:
    lost = Number(leak, leak - 0.05, leak + 0.05)
    return Point("lr", value, around(64 * leak, 3), lost, around(damage, 0.5), around(collateral, 3))


@pytest.fixture(scope="module")
def turned() -> Entry:
    return made("turned", 0.3, 20, curve=tuple(point(value, *numbers) for value, numbers in POINTS.items()))


@pytest.fixture(scope="module")
def pages(turned: Entry) -> dict[str, str]:
    found = [turned, made("costly", 0.1, 90, curve=(point(1e-3, 0.2, 60.0, 1.0),)), made("none", 1.0, 0, curve=())]
    with pytest.MonkeyPatch.context() as patch:
        only_draw(patch, "turned")
        return site(found) | beside(found)


def test_the_frontier_and_budgets_follow_the_rules_of_a_run(turned: Entry) -> None:
    (curve,), back = curves_of([turned])
    assert back == "longest match, tokens"
    assert [s.point.value for s in curve.frontier("collateral")] == [1e-5, 2e-5, 8e-5]
    within = {budget: curve.within("collateral", budget) for budget in (1.0, 10.0, 50.0)}
    assert {b: s and s.point.value for b, s in within.items()} == {1.0: None, 10.0: 1e-5, 50.0: 2e-5}
    assert within[50.0] is not None
    assert within[50.0].back.low == pytest.approx(64 * 0.6 - 3)


def test_curves_are_in_tokens_whether_or_not_their_points_have_a_leak(turned: Entry) -> None:
    bare = tuple(replace(p, leak=Number(None, why="the null is too small for thresholds")) for p in turned.curve)
    curves, _ = curves_of([turned, made("bare", 0.1, 4, curve=bare), made("without", 0.1, 4, curve=())])
    assert [c.method for c in curves] == ["turned", "bare"]
    assert [s.back.value for s in curves[0].settings] == [s.back.value for s in curves[1].settings]
    assert curves[0].settings[0].back.value == pytest.approx(57.6)


def cells(page: str, region: str) -> dict[str, list[str]]:
    """Row -> the texts of its cells, of the table in a region."""
    table = page[page.index(f'aria-label="{region}"') :].partition("</table>")[0]
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', table, re.DOTALL)
    return {name: [re.sub(r"<.*?>", " ", cell).strip() for cell in re.findall(r"<td.*?</td>", rest, re.DOTALL)] for name, rest in rows}


def test_a_page_of_a_row_marks_the_frontier_and_says_what_budgets_buy(pages: dict[str, str]) -> None:
    page = pages["tracks/made-up/rows/turned.html"]
    assert {name: re.sub(r" +", " ", said) for name, (said,) in cells(page, "What a budget buys").items()} == {
        "collateral ≤ 10 points": "57.6 [54.6, 60.6] at lr=1e-05",
        "collateral ≤ 25 points": "38.4 [35.4, 41.4] at lr=2e-05",
        "collateral ≤ 50 points": "38.4 [35.4, 41.4] at lr=2e-05",
        "damage ≤ 2%": "57.6 [54.6, 60.6] at lr=1e-05",
        "damage ≤ 5%": "38.4 [35.4, 41.4] at lr=2e-05",
        "damage ≤ 10%": "19.2 [16.2, 22.2] at lr=8e-05",
    }
    settings = cells(page, "At each strength")
    both = "collateral, damage"
    assert {name: said[-1] for name, said in settings.items()} == {
        "lr=1e-05": both, "lr=2e-05": both, "lr=4e-05": "", "lr=8e-05": both, "lr=0.0001": "",
    }  # fmt: skip
    assert '<th scope="col">Strength</th>' not in page, "an entry tells values of the field, not multiples"
    assert "Strength 1 is" not in page


def test_where_no_strength_is_within_a_budget_every_page_says_so(pages: dict[str, str]) -> None:
    bought = cells(pages["tracks/made-up/index.html"], "What a budget buys")
    assert list(bought) == ["turned", "costly"], "rows without a curve are not in it"
    assert bought["costly"][:3] == ["not reached"] * 3
    assert bought["costly"][3].startswith("12.8")
    assert "| costly | not reached | not reached | not reached | 12.8" in pages["README.md"]


def test_marks_of_the_frontier_are_filled(turned: Entry) -> None:
    (curve,), leak = curves_of([turned])
    drawn = charts.operating(curve, leak)
    root = ElementTree.fromstring(drawn)
    marks = [e.get("style", "") for e in root.iter() if e.tag.endswith("use") and "stroke: var(--blue)" in e.get("style", "")]
    filled = ["fill: var(--blue)" in style or "fill" not in style for style in marks]
    assert filled == 2 * [True, True, False, True, False]


# ---- survival in every row


def test_every_row_draws_the_curve_that_its_columns_are_values_of(pages: dict[str, str], tmp_path: Path) -> None:
    for path, rows in (("index.html", 3), ("tracks/made-up/index.html", 3)):
        assert pages[path].count('<svg class="spark"') == rows, path
    files = {path: text for path, text in pages.items() if path.startswith("survival/")}
    assert set(files) == {f"survival/made-up/{name}.svg" for name in ("turned", "costly", "none")}
    for text in files.values():
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in text
        assert "currentColor" not in text
    assert all(f"]({path})" in pages["README.md"] for path in files)
    (track,) = tracks([made("half", 0.5, 20)])
    survival, severe = track.rows[0].survival, track.rows[0].severity
    heights = [float(y) for y in re.findall(r"V([\d.]+)H", survival.svg)]
    assert np.allclose([100 * (20 - heights[n - 1]) / 18 for n in (16, 32, 64)], [x.value for x in severe], atol=0.5)
    assert survival.words.startswith(f"{severe[0].text}% of at least 16 tokens")
    (tmp_path / "survival/made-up").mkdir(parents=True)
    (tmp_path / "survival/made-up/gone.svg").write_text(files["survival/made-up/none.svg"])
    (tmp_path / "survival/made-up/mine.svg").write_text("<svg/>")
    assert "survival/made-up/gone.svg" in differences(files, tmp_path)
    renew(files, tmp_path)
    assert differences(files, tmp_path) == []
    assert not (tmp_path / "survival/made-up/gone.svg").exists()
    assert (tmp_path / "survival/made-up/mine.svg").exists(), "what is not of the board stays"


# ---- relearning


def test_an_entry_keeps_the_trajectories_of_relearning_with_the_twins() -> None:
    results = made_results()
    table = main_table(results)
    row = next(r for r in table.rows if r.method == "weak")
    values = entry_of(results, table, "weak", about()).claimed
    told = {(t.attack, t.dose): {x.step: (x.tokens.value, x.twin.value) for x in t.steps} for t in values.relearned}
    theirs = {(t.attack, t.dose): t.steps for t in table.twin.further.trajectories}
    assert told
    assert told == {
        (t.attack, t.dose): {step: (rounded(x.value), rounded(theirs[t.attack, t.dose][step].value)) for step, x in t.steps.items()}
        for t in row.further.trajectories
    }
    (first, *_) = values.relearned
    assert numbers(values)[f"matched at step {first.steps[-1].step}, {first.attack} {first.dose}".rstrip()] == first.steps[-1].tokens


def test_relearning_is_drawn_beside_the_twins(turned: Entry, pages: dict[str, str]) -> None:
    drawn = charts.relearned(turned.claimed.relearned)
    assert drawn in pages["tracks/made-up/rows/turned.html"]
    assert ">relearn<" in drawn.replace("\n", "")
    assert ">twin<" in drawn.replace("\n", "")
