"""The main table as data: rates, gains, damage, ties and curves."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import Cost, Results
from palimpsest.leaderboard.cells import Cell, cell, number
from palimpsest.leaderboard.curves import attack_curves, prompt_length_curves, survival
from palimpsest.leaderboard.frame import as_frame
from palimpsest.leaderboard.grids import grids
from palimpsest.leaderboard.statistics import Estimate, wilson
from palimpsest.leaderboard.tables import MainTable, MethodRow, main_table

from ..synthetic import results


@pytest.fixture(scope="module")
def full() -> Results:
    return results(bits={"weak": 1.05, "strong": 1.10, "none": 1.01})


@pytest.fixture(scope="module")
def table(full: Results) -> MainTable:
    return main_table(full)


def row(table: MainTable, method: str) -> MethodRow:
    return next(r for r in table.rows if r.method == method)


def test_rows_stand_in_the_order_of_the_suite_and_the_twin_is_no_row(table: MainTable):
    assert [r.method for r in table.rows] == ["none", "weak", "strong", "retrain"]
    assert table.twin.method == "twin"
    assert table.twin.recovery.leaks[0].leak.value == 0
    assert table.notes.memories == 192


def test_the_exact_opening_shows_nothing_where_the_worst_case_shows_all(table: MainTable):
    weak = row(table, "weak")
    assert weak.recovery.exact.value == 0
    assert weak.recovery.worst.value > 0.9
    assert row(table, "none").recovery.exact.value == 1


def test_one_seed_carries_a_wilson_interval_and_a_raw_excess():
    table = main_table(results(seeds=(0,)))
    assert not table.calibrated
    assert (row(table, "weak").recovery.exact.low, row(table, "weak").recovery.exact.high) == wilson(0, 64)
    assert not row(table, "weak").recovery.leaks[0].leak
    assert row(table, "weak").recovery.leaks[0].excess.value > 50
    assert grids(table)[0].header[4] == "Excess tokens"
    assert table.ranked(row(table, "strong")) == row(table, "strong").recovery.leaks[0].excess


def test_a_gain_is_what_the_attack_adds_beyond_what_it_adds_on_the_twin():
    lengths = {("twin", "prefix"): 1, ("twin", "paraphrase"): 3, ("npo", "prefix"): 4, ("npo", "paraphrase"): 20}
    made = results(("npo",), seeds=(0,), memories=9, length=lambda m, r, a, d: lengths.get((m, a), 0))
    gains = {a.attack: a.gain.value for a in main_table(made).rows[0].recovery.attacks}
    assert gains == {"prefix": 0, "shifted_window": (0 - 4) - (0 - 1), "paraphrase": (20 - 4) - (3 - 1)}


def test_damage_is_relative_bits_per_byte_and_points_of_accuracy(table: MainTable):
    weak = row(table, "weak")
    assert weak.utility.damage.value == pytest.approx(5)
    assert {t.unit for t in weak.utility.tasks} == {"%", "points"}
    assert weak.utility.tasks[1].loss.value == 0
    assert row(table, "none").collapsed is False


def test_one_seed_takes_the_interval_of_damage_from_paired_documents():
    made = results(("npo",), seeds=(0,), memories=9)
    worse = {"documents": (0.0,) * 15 + (1.0,) * 15}
    other = [replace(q, value=q.value - 0.1, **worse) if q.method == "npo" else q for q in made.quality]
    task = main_table(replace(made, quality=other)).rows[0].utility.tasks[1]
    assert task.loss.value == pytest.approx(10)
    assert task.loss.high - task.loss.low == pytest.approx(2 * 1.96 * task.stderr)
    assert task.stderr > 5


def test_ties_are_marked_and_collapsed_or_reference_rows_do_not_compete():
    made = results(
        ("none", "weak", "strong", "other", "burnt", "retrain"), bits={"burnt": 1.5},
        length=lambda m, role, a, d: 64 if role == "keep" or (role == "forget" and m in ("none", "weak")) else d.randrange(8),
    )  # fmt: skip
    standing = {r.method: r.standing for r in main_table(made).rows}
    assert sorted((standing["strong"], standing["other"])) == ["best", "tied"]
    assert [standing[m] for m in ("none", "weak", "burnt", "retrain")] == ["", "", "", ""]


def rivals(**damages: float) -> dict[str, str]:
    """Method -> standing, where all methods leak alike and their bits per byte are these."""
    made = results(("none", *damages), bits=damages, length=lambda m, role, a, d: 64 if role == "keep" or m == "none" else d.randrange(8))
    return {r.method: r.standing for r in main_table(made).rows}


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_row_whose_damage_is_no_number_never_competes(broken: float):
    standing = rivals(nan=broken, honest=1.01)
    assert standing == {"none": "", "nan": "", "honest": "best"}
    assert set(rivals(nan=broken).values()) == {""}


def test_a_row_without_the_suites_yardstick_cannot_win():
    made = results(("none", "weak", "strong"), memories=9, seeds=(0,))
    assert "best" in {r.standing for r in main_table(made).rows}
    other = main_table(replace(made, yardstick="another_task"))
    assert {r.standing for r in other.rows} == {""}
    assert not any(r.utility.damage for r in other.rows)
    assert "a row without it cannot be best" in grids(other)[0].explained


def test_an_accuracy_can_be_the_yardstick_and_then_damage_is_its_loss_in_percent_of_the_twins():
    made = results(("none", "ruined", "honest"), length=lambda m, role, a, d: 64 if role == "keep" or m == "none" else d.randrange(8))
    quality = [replace(q, value=0.25) if (q.method, q.task) == ("ruined", "continuation") else q for q in made.quality]
    table = main_table(replace(made, quality=quality, yardstick="continuation"))
    ruined = row(table, "ruined")
    assert ruined.utility.tasks[1].loss.value == pytest.approx(50), "points, in the table of tasks"
    assert ruined.utility.damage.value == pytest.approx(100 * 0.5 / 0.75)
    assert ruined.collapsed
    assert {r.method: r.standing for r in table.rows} == {"none": "", "ruined": "", "honest": "best"}
    assert "Damage: accuracy in continuation lost" in grids(table)[0].explained
    assert [f.raised for f in ruined.flags if f.flag.mark == "†"] == [(0, 1, 2)]


def test_of_several_metrics_of_a_task_the_accuracy_is_the_yardstick():
    made = results(("none", "weak"), memories=9, seeds=(0,))
    norm = [replace(q, metric="acc_norm", value=0.1 if q.method == "weak" else 0.9) for q in made.quality if q.task == "continuation"]
    table = main_table(replace(made, quality=[*norm, *made.quality], yardstick="continuation"))
    assert row(table, "weak").utility.damage.value == 0


@pytest.mark.parametrize(("held", "learnt"), [(1.0, True), (0.2, True), (0.02, False), (0.0, False)])
def test_where_the_held_model_repeats_little_nobody_is_best(held: float, learnt: bool):
    made = results(
        length=lambda m, role, a, d: 64 if role == "keep" or (m == "none" and role == "forget" and d.random() < held) else d.randrange(8)
    )
    table = main_table(made)
    assert table.notes.learnt == learnt
    assert any(r.standing for r in table.rows) == learnt
    assert ("* best" in grids(table)[0].caption) == learnt


def test_every_row_shows_how_much_it_keeps_of_what_it_should_know():
    made = results(("none", "npo"), length=lambda m, role, a, d: 0 if m == "npo" and d.random() < 0.5 else 64)
    table = main_table(made)
    assert row(table, "none").utility.kept.value == 1
    assert 0.3 < row(table, "npo").utility.kept.value < 0.7
    assert table.twin.utility.kept.count == 192, "shown and hidden"
    main = grids(table)[0]
    assert main.header[8] == "Keeps %"
    assert str(main.rows[0].cells[8]) == "100.0"
    assert "keeps 100.0%." in main.caption


def test_collateral_is_in_points():
    made = results(("none", "npo"), length=lambda m, role, a, d: 0 if m == "npo" and d.random() < 0.5 else 64)
    assert 30 < row(main_table(made), "npo").utility.collateral.value < 70
    assert row(main_table(made), "none").utility.collateral.value == 0


def test_results_without_quality_or_held_model_still_give_a_table():
    bare = replace(results(("npo",), seeds=(0,), memories=6), quality=[], costs=[])
    only = main_table(bare).rows[0]
    assert not only.utility.damage
    assert not only.utility.collateral
    assert math.isnan(only.seconds)
    assert [str(c) for c in grids(main_table(bare))[0].rows[0].cells][-4:] == ["–", "100.0", "–", "–"]


def test_results_without_records_say_what_to_do():
    with pytest.raises(UserError, match="run the suite first"):
        main_table(replace(results(seeds=(0,), memories=3), records=[]))


def test_an_access_level_that_no_attack_has_is_answered_with_those_there_are(full: Results):
    with pytest.raises(UserError, match="black-box"):
        main_table(full, access="black")


def test_results_without_the_twin_show_no_leak_instead_of_a_wrong_one(full: Results):
    table = main_table(replace(full, records=[r for r in full.records if r.method != "twin"]))
    assert not table.ranked(table.rows[0])
    assert table.rows[0].recovery.exact.value == 1


def test_curves_fall_from_one():
    curve = survival([0, 32, 64, 64])
    assert len(curve) == 65
    assert (curve[0], curve[1], curve[32], curve[33], curve[64]) == (1, 0.75, 0.75, 0.5, 0.5)


def test_curves_are_by_attack_and_by_prompt_length_where_all_variants_are_lengths(full: Results):
    assert list(attack_curves(full, "weak")) == ["exact opening", "prefix", "shifted_window", "paraphrase"]
    assert {a: list(v) for a, v in prompt_length_curves(full, "weak").items()} == {"shifted_window": ["k8", "k16"]}


def test_questions_of_mixed_lengths_or_that_are_no_windows_have_no_curves_by_length(full: Results):
    mixed = [replace(r, start=r.start + (r.memory > "memory-100")) if r.variant == "k16" else r for r in full.records]
    assert prompt_length_curves(replace(full, records=mixed), "weak") == {}
    same = [replace(r, start=0) for r in full.records]
    assert prompt_length_curves(replace(full, records=same), "weak") == {}
    edits = [replace(r, asks="edit") for r in full.records]
    assert prompt_length_curves(replace(full, records=edits), "weak") == {}


def test_several_access_levels_get_a_table_of_their_own():
    table = main_table(results(access={"shifted_window": "weights"}))
    assert table.access == "black-box"
    assert row(table, "weak").recovery.worst.value < 0.1
    assert "access" in [g.key for g in grids(table)]
    assert [leak.access for leak in table.rows[0].recovery.leaks] == ["black-box", "weights"]


def test_numbers_are_rounded_and_never_minus_zero():
    assert [number(x) for x in (-0.01, -1.25, float("nan"), 3)] == ["0.0", "−1.2", "–", "3.0"]
    assert cell(Estimate(0.5, 0.25, 0.75, (0.25, 0.75)), 100, seeds=True) == Cell("50.0", "[25.0, 75.0]", "seeds 25.0 to 75.0")


def test_the_frame_holds_raw_numbers_for_every_estimate(table: MainTable):
    frame = as_frame(table).set_index("method")
    assert frame.loc["weak", "damage_percent"] == pytest.approx(5)
    assert {"leak:black-box_low", "gain_tokens:shifted_window", "exact_rate_spread", "seconds", "flops_over_retrain"} <= set(frame.columns)


def test_costs_are_means_over_seeds_beside_those_of_retraining(table: MainTable):
    grid = next(g for g in grids(table) if g.key == "costs")
    assert grid.header == ["Method", "Seconds", "Thousand tokens", "TFLOPs", "Peak MiB"]
    assert [[str(c) for c in r.cells[1:]] for r in grid.rows] == [
        ["3 ×0.250", "1 ×0.250", "2.00 ×0.250", "100 ×1.000"],
        ["6 ×0.500", "2 ×0.500", "4.00 ×0.500", "100 ×1.000"],
        ["11 ×1.000", "4 ×1.000", "8.00 ×1.000", "100 ×1.000"],
    ]
    assert row(table, "none").costs == ()


def test_costs_are_compared_with_the_twin_where_retrain_was_not_run():
    made = results(("none", "weak"), memories=9)
    costs = [*made.costs, *(Cost("twin", s, 100.0, 2000) for s in made.seeds)]
    cells = row(main_table(replace(made, costs=costs)), "weak").costs
    assert {c.quantity: c.ratio for c in cells if c.quantity in ("seconds", "tokens")} == pytest.approx({"seconds": 0.0275, "tokens": 0.5})


def test_what_was_not_measured_has_no_column():
    made = results(memories=9)
    bare = replace(made, costs=[replace(c, flops=math.nan, peak_mib=math.nan) for c in made.costs])
    assert next(g for g in grids(main_table(bare)) if g.key == "costs").header == ["Method", "Seconds", "Thousand tokens"]
