"""Operating curves: frontiers and budgets by hand, and what a report of a run with strengths shows."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from palimpsest.benchmark.common.types import OperatingPoint, Results
from palimpsest.leaderboard import operating_plots
from palimpsest.leaderboard.operating_curves import (
    BUDGETS,
    NOT_REACHED,
    Curve,
    Setting,
    budgets_frame,
    curve_grids,
    operating_curves,
    settings_frame,
)
from palimpsest.leaderboard.report import write_report
from palimpsest.leaderboard.statistics import Estimate
from palimpsest.leaderboard.tables import MainTable, main_table

from ..synthetic import results

STRENGTHS = (0.25, 0.5, 1.0)
# Row -> the share of forget memories that come back, of hidden keep memories that are lost, and bits per byte (twin: 1).
MADE = {
    "soft@0.25": (1.0, 0.0, 1.01), "soft@0.5": (0.5, 0.0, 1.03), "soft@1": (0.0, 0.4, 1.08),
    "hard@0.25": (0.5, 0.8, 1.04), "hard@0.5": (0.6, 0.9, 1.15), "hard@1": (0.0, 1.0, 1.9),
}  # fmt: skip


def length(method: str, role: str, attack: str, draw: random.Random) -> int:
    forget, lost, _ = MADE.get(method, (1.0 if method == "none" else 0.0, 0.0, 1.0))
    if role == "unseen":
        return draw.randrange(3)
    back = draw.random() < (forget if role == "forget" else 1 - lost)
    return 64 if back else draw.randrange(3)


@pytest.fixture(scope="module")
def made() -> Results:
    points = [
        OperatingPoint(row, method, float(strength), "lr", float(strength) * 1e-4)
        for row in MADE
        for method, _, strength in [row.partition("@")]
    ]
    found = results(
        ("none", *MADE, "single", "retrain"), seeds=(0, 1, 2), memories=96, length=length,
        bits={"none": 1.005} | {row: bits for row, (_, _, bits) in MADE.items()},
    )  # fmt: skip
    return replace(found, points=points)


@pytest.fixture(scope="module")
def table(made: Results) -> MainTable:
    return main_table(made)


@pytest.fixture(scope="module")
def curves(made: Results, table: MainTable) -> dict[str, Curve]:
    return {c.method: c for c in operating_curves(made, table)}


@pytest.fixture(scope="module")
def small(made: Results) -> Results:
    """The first seed alone: too small a null for a leak."""
    return replace(made, records=[r for r in made.records if r.seed == 0], seeds=(0,), costs=[])


def setting(strength: float, back: float, collateral: float, damage: float) -> Setting:
    def sure(x: float) -> Estimate:
        return Estimate(x, x, x)

    return Setting(OperatingPoint("", "m", strength, "lr", strength), sure(1.0), sure(back), sure(collateral), sure(damage))


# ---- by hand


def test_the_frontier_leaves_out_what_another_strength_beats_and_nothing_else() -> None:
    a, b, c, d = setting(1, 80, 0, 1), setting(2, 40, 20, 2), setting(3, 40, 30, 1.5), setting(4, 5, 100, 15)
    worse, collapsed = setting(5, 5, 100, 16), setting(6, 0, 10, 30)
    curve = Curve("m", (a, b, c, d, worse, collapsed))
    assert curve.frontier("collateral") == (a, b, d, worse), "equal in both beats nobody"
    assert curve.frontier("damage") == (a, c, d)


@pytest.mark.parametrize(
    ("budget", "strength"),
    [(-1.0, None), (0.0, 1), (10.0, 2), (25.0, 2), (50.0, 4)],
)
def test_a_budget_buys_the_least_excess_that_it_pays_for_the_limit_included(budget: float, strength: float | None) -> None:
    curve = Curve("m", (setting(1, 80, 0, 1), setting(2, 40, 10, 2), setting(3, 60, 20, 2), setting(4, 5, 50, 9), setting(5, 0, 0, 30)))
    found = curve.within("collateral", budget)
    assert (found.point.strength if found else None) == strength


def test_what_was_not_measured_is_bought_by_no_budget() -> None:
    unknown = setting(1, math.nan, 0, 1), setting(2, 10, math.nan, 1)
    curve = Curve("m", unknown)
    assert curve.within("collateral", 100) is None
    assert curve.frontier("collateral") == ()
    assert curve.within("damage", 100) is unknown[1]


# ---- from results


def test_rows_are_put_together_by_typed_points_and_not_by_their_names(small: Results) -> None:
    renamed = {row: f"row {i}" for i, row in enumerate(MADE)}
    other = replace(
        small, methods=tuple(renamed.get(m, m) for m in small.methods),
        records=[replace(r, method=renamed.get(r.method, r.method)) for r in small.records],
        quality=[replace(q, method=renamed.get(q.method, q.method)) for q in small.quality],
        points=[replace(p, row=renamed[p.row]) for p in small.points],
    )  # fmt: skip
    theirs, mine = (operating_curves(r, main_table(r)) for r in (other, small))
    assert [(c.method, [s.back for s in c.settings]) for c in theirs] == [(c.method, [s.back for s in c.settings]) for c in mine]


def test_curves_hold_the_tables_own_numbers_weakest_first_and_single_methods_too(table: MainTable, curves: dict[str, Curve]) -> None:
    rows = {row.method: row for row in table.rows}
    assert list(curves) == ["none", "soft", "hard", "single", "retrain"]
    assert [s.point.strength for s in curves["soft"].settings] == list(STRENGTHS)
    for s in (*curves["soft"].settings, *curves["hard"].settings):
        row = rows[s.point.row]
        assert (s.collateral, s.damage, s.matched) == (row.utility.collateral, row.utility.damage, row.recovery.worst_length)
        assert s.back == row.recovery.leaks[0].excess
    assert len(curves["single"].settings) == 1
    assert [c.method for c in curves.values() if c.reference] == ["none", "retrain"]


def test_budgets_buy_what_was_made_up(curves: dict[str, Curve]) -> None:
    def bought(method: str, kind, budget: float) -> float | None:
        found = curves[method].within(kind, budget)
        return found.point.strength if found else None

    assert [bought("soft", "collateral", b) for b in BUDGETS["collateral"]] == [0.5, 0.5, 1.0]
    assert [bought("hard", "collateral", b) for b in BUDGETS["collateral"]] == [None, None, None]
    assert [bought("soft", "damage", b) for b in BUDGETS["damage"]] == [0.25, 0.5, 1.0]
    assert [bought("hard", "damage", b) for b in BUDGETS["damage"]] == [None, 0.25, 0.25]
    assert {s.point.strength for s in curves["hard"].frontier("collateral")} == {0.25}, "the strongest has collapsed"


def test_curves_are_in_tokens_beyond_the_twin_whatever_the_null(small: Results, made: Results, table: MainTable) -> None:
    assert table.calibrated
    assert not main_table(small).calibrated
    assert list(settings_frame(small, main_table(small))) == list(settings_frame(made, table))
    assert "Excess over the twin, tokens" in curve_grids(small, main_table(small))[1].header


# ---- the report


def test_a_report_of_a_run_with_strengths_has_tables_figures_and_files(made: Results, table: MainTable, tmp_path: Path) -> None:
    names = {f.name for f in write_report(made, tmp_path)}
    assert {"curves.csv", "curves.parquet", "budgets.csv", "budgets.parquet", "operating-collateral.svg", "operating-damage.svg"} <= names
    assert all((tmp_path / name).is_file() for name in names)
    frame = pd.read_csv(tmp_path / "curves.csv")
    assert list(frame["row"]) == ["none", *MADE, "single", "retrain"]
    assert {"excess_tokens_low", "collateral_points_high", "damage_percent", "matched_tokens", "frontier_damage"} <= set(frame)
    budgets = pd.read_parquet(tmp_path / "budgets.parquet").set_index(["method", "cost", "budget"])
    assert not budgets.loc[("hard", "collateral", 50.0), "reached"]
    assert math.isnan(budgets.loc[("hard", "collateral", 50.0), "excess_tokens"])  # type: ignore[arg-type]
    for page in (tmp_path / "report.md", tmp_path / "report.html"):
        text = page.read_text("utf-8")
        assert "What a budget buys" in text
        assert "At each strength" in text
    assert (tmp_path / "report.md").read_text("utf-8").count(f"| {NOT_REACHED} ") == int((~budgets["reached"]).sum())
    assert len(budgets_frame(made, table)) == 5 * 6


def test_a_report_without_strengths_is_what_it_was(tmp_path: Path) -> None:
    plain = results(memories=48, seeds=(0, 1))
    assert curve_grids(plain, main_table(plain)) == []
    names = {f.name for f in write_report(plain, tmp_path)}
    assert not {n for n in names if "operating" in n or n.startswith(("curves.csv", "budgets"))}
    assert "What a budget buys" not in (tmp_path / "report.md").read_text("utf-8")


def test_figures_tell_methods_by_marks_as_well_and_are_the_same_on_every_run(made: Results, table: MainTable) -> None:
    for kind in BUDGETS:
        svg = operating_plots.operating_figure(made, table, kind)
        assert svg == operating_plots.operating_figure(made, table, kind)
        assert all(f">{name}<" in svg.replace("\n", "") for name in ("soft", "hard", "single"))
    assert len(set(operating_plots.MARKS)) == len(operating_plots.COLOURS) >= operating_plots.TOGETHER


def test_many_methods_have_a_panel_each_and_print_stays_legible(made: Results, table: MainTable, monkeypatch: pytest.MonkeyPatch) -> None:
    together = operating_plots.operating_figure(made, table, "collateral")
    monkeypatch.setattr(operating_plots, "TOGETHER", 2)
    apart = operating_plots.operating_figure(made, table, "collateral")
    assert [svg.count('id="operating-collateral-axes_') for svg in (together, apart)] == [1, 3]
    for svg in (together, apart):
        width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg).group(1))  # type: ignore[union-attr]
        sizes = [float(size) for size in re.findall(r"<text [^>]*?font(?:-size)?: ([\d.]+)px", svg)]
        assert min(sizes) * 350 / width > 9
