"""Membership, sampling, relearning, reversal and other numbers: from values to cells and tables."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from palimpsest.benchmark.common.types import Record, Results
from palimpsest.leaderboard.curves import prompt_length_curves
from palimpsest.leaderboard.frame import as_frame
from palimpsest.leaderboard.grids import grids
from palimpsest.leaderboard.membership import auc
from palimpsest.leaderboard.tables import MainTable, MethodRow, main_table
from palimpsest.leaderboard.values import ValueScore

from ..synthetic import asked_again, battery, record, results, value


@pytest.fixture(scope="module")
def full() -> Results:
    return battery()


@pytest.fixture(scope="module")
def table(full: Results) -> MainTable:
    return main_table(full)


def row(table: MainTable, method: str) -> MethodRow:
    return next(r for r in table.rows if r.method == method)


def text(table: MainTable, key: str) -> dict[tuple[str, ...], list[str]]:
    """The cells of one table as text, by the first two of each row."""
    grid = next(g for g in grids(table) if g.key == key)
    return {(r.cells[0].text, r.cells[1].text): [str(c) for c in r.cells] for r in grid.rows}


# ---- membership


def test_a_score_counts_as_what_it_declares_to_be_whatever_its_name(full: Results, table: MainTable):
    names = {"loss": "mine", "sampling": "drawing"}
    own = [replace(v, attack=names[v.attack]) if v.quantity in names else v for v in full.values]
    renamed = main_table(replace(full, values=own))
    for r in (*table.rows, table.twin):
        other = renamed.twin if r is table.twin else row(renamed, r.method)
        assert [m.attack for m in other.further.membership] == ["mine", "zlib"]
        assert other.further.forget_quality == r.further.forget_quality
        assert other.further.extraction == r.further.extraction
        assert [(f.flag.mark, f.numbers) for f in other.flags] == [(f.flag.mark, f.numbers) for f in r.flags]
    assert [x.name for x in row(renamed, "weak").further.numbers] == [x.name for x in row(table, "weak").further.numbers]


def test_membership_is_forget_against_unseen_on_the_same_model_and_seed(full: Results, table: MainTable):
    loss, zlib = row(table, "weak").further.membership
    mine = [v for v in full.values if (v.method, v.attack, v.seed) == ("weak", "loss", 0)]
    sides = [[v.value for v in mine if v.role == role] for role in ("forget", "unseen")]
    assert loss.auc.by_seed[0] == auc(*sides)
    assert (loss.attack, zlib.attack) == ("loss", "zlib")
    assert loss.auc.value == zlib.auc.value
    assert row(table, "none").further.membership[0].auc.value == 1
    assert row(table, "none").further.membership[0].caught[0].value == 1
    assert row(table, "strong").further.membership[0].auc.value == 0


def test_privleak_is_positive_for_too_little_forgetting_and_negative_for_too_much(table: MainTable):
    leaks = {m: row(table, m).further.membership[0].privleak.value for m in ("none", "strong")}
    assert leaks["none"] > 50
    assert leaks["strong"] == -100
    assert table.twin.further.membership[0].privleak.value == 0


def test_one_seed_takes_the_interval_of_the_auc_over_texts():
    made = main_table(battery(seeds=(0,)))
    twin, none = made.twin.further.membership[0].auc, row(made, "none").further.membership[0].auc
    assert twin.low < twin.value < twin.high
    assert 0.5 < none.low < none.high == none.value == 1  # perfect separation of 16 and 16 still leaves doubt


def test_forget_quality_compares_with_the_twin(table: MainTable):
    assert row(table, "strong").further.forget_quality.distance == 1
    assert row(table, "strong").further.forget_quality.p < 1e-6
    assert row(table, "retrain").further.forget_quality.p > 0.01
    shown = text(table, "membership")
    assert shown["loss", "strong"][-1] == "1.00 p <.001"
    assert shown["zlib", "strong"][-1] == "–"


# ---- sampling


def test_extraction_is_the_share_that_enough_tries_give_minus_the_twins():
    chances = {"a": 0.6, "b": 0.08, "c": 1e-4, "d": 0.0}
    values = [
        value(method, memory, "sampling", "sampling", math.log(chance) if chance else -math.inf)
        for memory, chance in chances.items()
        for method, chance in (("npo", chance), ("twin", 0.01 if memory == "a" else 0.0))
    ]
    cells = ValueScore(values, "twin").extraction("npo")
    assert [c.tries for c in cells] == [1, 10, 100, 1000]
    assert [c.share.value for c in cells] == [0.25, 0.5, 0.5, 0.5]
    assert [c.over.value for c in cells] == [0.25, 0.5, 0.25, 0.25]


# ---- relearning


def test_a_trajectory_starts_where_the_model_was_and_its_ratio_is_against_the_twin(table: MainTable):
    weak = row(table, "weak").further.trajectories[0]
    assert list(weak.steps) == [0, 2, 4, 8, 16, 32]
    assert weak.steps[0].value == pytest.approx(row(table, "weak").recovery.opening.value)
    assert weak.steps[4].value == 32
    assert (weak.ratio.value, weak.ratio.bound) == (8, False)  # the twin needs 32 steps
    assert row(table, "none").further.trajectories[0].ratio.value == math.inf
    assert row(table, "strong").further.trajectories[0].ratio.value == 2
    shown = text(table, "relearn")
    assert shown["relearn 20%", "weak"][-1] == "8.0"
    assert shown["relearn 20%", "none"][-1] == "∞"


def test_a_trajectory_may_name_its_dose_or_only_its_steps():
    values = [value("npo", "a", "relearn_lora", "matched", float(n), tier=3, step=n) for n in (5, 10)]
    values += [value("npo", "a", "relearn", "matched", 1.0, tier=3, dose="50% lora", step=n) for n in (5, 20)]
    short, long = ValueScore(values, "twin").trajectories("npo", {})
    assert (short.name, {n: x.value for n, x in short.steps.items()}) == ("relearn_lora", {5: 5, 10: 10})
    assert (long.name, list(long.steps)) == ("relearn 50% lora", [5, 20])


def test_a_length_at_a_dose_without_a_step_is_a_number_of_its_own():
    values = [value("npo", "a", "mine", "matched", x, tier=3, dose=dose) for dose, x in (("weak", 1.0), ("strong", 9.0))]
    assert ValueScore(values, "twin").trajectories("npo", {}) == ()
    numbers = ValueScore(values, "twin").numbers("npo")
    assert [(n.name, n.mean.value) for n in numbers] == [("mine: matched@weak", 1), ("mine: matched@strong", 9)]


def test_nothing_is_read_out_of_the_names_of_variants(full: Results, table: MainTable):
    names = {v: f"question {i}" for i, v in enumerate(sorted({r.variant for r in full.records}, reverse=True))}
    renamed = replace(full, records=[replace(r, variant=names[r.variant]) for r in full.records])
    other, shown = ([str(c) for g in grids(x) for r in g.rows for c in r.cells] for x in (main_table(renamed), table))
    assert other == shown
    curves, theirs = (prompt_length_curves(x, "weak")["shifted_window"] for x in (full, renamed))
    assert list(theirs) == [names[k] for k in curves] == [names["k8"], names["k16"]]
    assert all(np.array_equal(theirs[names[k]], curve) for k, curve in curves.items())


def test_a_twin_that_never_relearns_gives_a_lower_bound(full: Results):
    short = replace(full, values=[v for v in full.values if v.step != 32])
    shown = text(main_table(short), "relearn")
    assert shown["relearn 20%", "weak"][-1] == ">4.0"
    assert shown["relearn 20%", "retrain"][-1] == "–"


# ---- reversal


def test_reversal_is_read_with_the_same_prompts_on_the_same_memories(table: MainTable):
    for method, (attacked, before) in {"weak": (48, 12), "strong": (16, 4)}.items():
        (relearn,) = (x for x in row(table, method).recovery.reversals if x.attack == "relearn")
        assert relearn.share.by_seed == pytest.approx([(attacked - before) / (60 - before)] * 2)
    assert not row(table, "none").recovery.reversals[0].share


def test_a_change_that_changes_nothing_undoes_nothing():
    def lengths(method: str, matched: int) -> list[Record]:  # the model itself is asked more than a changed one
        changed = {"unchanged": "as it is", "idle": "x"}
        again = [record(method, "a", matched, attack=a, access="weights", **asked_again(dose)) for a, dose in changed.items()]
        return [record(method, "a", matched + 8), *again]

    made = replace(
        results(("none", "npo"), seeds=(0,), memories=3), records=[*lengths("none", 56), *lengths("npo", 12), *lengths("twin", 0)]
    )
    (idle,) = row(main_table(replace(made, diagnostics=("unchanged",))), "npo").recovery.reversals
    assert (idle.attack, idle.share.value) == ("idle", 0)


def test_reversal_takes_only_memories_that_the_attack_was_asked_about():
    records = [
        record("none", "a", 64), record("none", "b", 64), record("npo", "a", 4), record("npo", "b", 60),
        record("npo", "a", 34, attack="int4", access="weights", **asked_again("int4")), record("twin", "a", 0), record("twin", "b", 0),
    ]  # fmt: skip
    records += [replace(r, attack="unchanged", access="weights", **asked_again("as it is")) for r in records if r.attack == "prefix"]
    made = replace(results(("none", "npo"), seeds=(0,), memories=3), records=records)
    assert row(main_table(made), "npo").recovery.reversals[0].share.value == 0.5


# ---- other numbers


def test_other_numbers_are_means_on_the_memories_that_the_held_model_was_asked_about():
    asked = [("none", "a", 9.0), ("npo", "a", 5.0), ("npo", "survivor", 1.0), ("twin", "a", 2.0), ("twin", "survivor", 8.0)]
    values = [value(m, memory, "exposure", "exposure", x, tier=2) for m, memory, x in asked]
    values.append(value("npo", "a", "depth", "depth", 0.25, tier=2))  # the held model has none: every memory counts
    exposure, depth = ValueScore(values, "twin").numbers("npo")
    assert (exposure.mean.value, exposure.over.value) == (5, 3)
    assert (depth.name, depth.mean.value) == ("depth", 0.25)


def test_folds_of_a_memory_are_averaged_and_what_is_not_finite_is_left_out():
    values = [value("npo", "a", "acr", "ratio", x, tier=3, fold=fold) for fold, x in ((0, 1.0), (1, 3.0))]
    values.append(value("npo", "b", "acr", "ratio", math.inf, tier=3))
    (ratio,) = ValueScore(values, "twin").numbers("npo")
    assert (ratio.name, ratio.mean.value, ratio.mean.count) == ("acr: ratio", 2, 1)


def test_a_log_probability_of_minus_infinity_is_kept():
    score = ValueScore([value("npo", "a", "sampling", "sampling", -math.inf)], "twin")
    assert score.needed("npo").tolist() == [math.inf]


# ---- tables


def test_every_kind_of_value_has_a_table(table: MainTable):
    keys = [g.key for g in grids(table)]
    assert keys == [
        "main", "access", "ranking", "stability", "severity", "attacks", "gains", "reversal", "relearn", "extraction", "membership",
        "numbers", "flags", "tasks", "costs",
    ]  # fmt: skip
    for grid in grids(table):
        assert {len(r.cells) for r in grid.rows} == {len(grid.header)}


def test_diagnostics_are_shown_but_named_and_kept_out(table: MainTable):
    soft = next(a for a in row(table, "strong").recovery.attacks if a.attack == "soft_prompt")
    assert soft.matched.value == 64
    assert math.isnan(soft.p)
    assert not soft.recovered
    assert list(table.calibrations) == ["black-box", "weights"]
    assert row(table, "strong").recovery.leaks[1].excess.value < 20
    assert "Diagnostics" in next(g for g in grids(table) if g.key == "attacks").caption


def test_recovered_shares_are_shown_where_the_null_allows_thresholds():
    full = results(bits={"weak": 1.05})
    table = main_table(full)
    cells = {a.attack: a for a in row(table, "weak").recovery.attacks}
    assert cells["shifted_window"].recovered.value > 0.7
    assert cells["shifted_window"].recovered_p < 1e-6
    assert cells["paraphrase"].recovered.value < 0.05
    assert cells["paraphrase"].recovered_p == 1
    assert row(table, "none").recovery.attacks[0].recovered.value == 1
    assert "recovered" in [g.key for g in grids(table)]


def test_every_threshold_is_shown_with_what_it_comes_from():
    table = main_table(results(bits={"weak": 1.05}, access={"shifted_window": "white-box"}))
    shown = next(g for g in grids(table) if g.key == "thresholds")
    black, white = (table.calibrations[level] for level in ("black-box", "white-box"))
    assert shown.header == ["Attack", "Access", "q", "limit, black-box", "limit, white-box"]
    lines = {r.cells[0].text: [float(c.text) if c.text != "–" else None for c in r.cells[2:]] for r in shown.rows}
    assert lines["shifted_window"] == pytest.approx([white.quantiles["shifted_window"], None, white.threshold("shifted_window")], abs=0.05)
    assert lines["prefix"] == pytest.approx([black.quantiles["prefix"], black.threshold("prefix"), white.threshold("prefix")], abs=0.05)
    assert f"black-box τ {black.tau:.1f}, {black.size} values, {100 * black.false_positives:.1f}%" in shown.caption
    assert "tokens" in next(g for g in grids(table) if g.key == "access").rows[0].cells[1].note


def test_many_attacks_stand_in_rows_and_few_in_columns():
    few = main_table(results(seeds=(0,), memories=6))
    cells = {r.method: tuple(replace(a, attack=f"{a.attack} {i}") for i in range(4) for a in r.recovery.attacks) for r in few.rows}
    many = replace(few, rows=[replace(r, recovery=replace(r.recovery, attacks=cells[r.method])) for r in few.rows])
    assert next(g for g in grids(few) if g.key == "attacks").header[:2] == ["Method", "exact opening"]
    turned = next(g for g in grids(many) if g.key == "attacks")
    assert turned.header == ["Attack", "none", "weak", "strong", "retrain", "the twin"]
    assert [r.cells[0].text for r in turned.rows][:2] == ["exact opening", "prefix"]


def test_survivors_make_the_caption_say_that_the_worst_case_is_a_lower_bound(full: Results):
    assert "lower bound" not in grids(main_table(full))[0].explained
    more = record("weak", "memory-000", 9, attack="relearn", access="weights", tier=3, extra=True, **asked_again("20%"))
    results = replace(full, records=[*full.records, more])
    assert "lower bound" in grids(main_table(results, "weights"))[0].explained
    assert "lower bound" not in grids(main_table(results, "black-box"))[0].explained, "there everything was asked of all"


def test_the_frame_holds_every_number(table: MainTable):
    frame = as_frame(table).set_index("method")
    assert frame.loc["weak", "relearn_ratio:relearn 20%"] == 8
    assert frame.loc["none", "auc:loss"] == 1
    assert np.isfinite(frame.loc["weak", "reversal:relearn"])
    assert {"tpr_at_1:zlib", "privleak_percent:loss", "extractable_rate:10", "value:exposure:exposure", "forget_quality_p"} <= set(frame)
    assert frame.loc["strong", "flags"] == "o r q"


def test_where_never_seen_memories_are_passages_questions_to_forget_are_not_compared_with_them():
    """A question's tokens are likelier or less likely than a passage's, whoever met them."""
    full = battery(seeds=(0,))
    names = sorted({v.memory for v in full.values if v.role == "forget"})
    asked = dict.fromkeys(names[:3], "qa")
    mixed = replace(full, values=[replace(v, value=v.value - 50) if v.memory in asked else v for v in full.values], kinds=asked)
    some, every = (row(main_table(r), "weak") for r in (mixed, replace(full, values=[v for v in full.values if v.memory not in asked])))
    assert some.further.membership == every.further.membership
    flags = [{f.flag.mark: (f.numbers, f.chances) for f in r.flags if f.flag.mark in "or"} for r in (some, every)]
    assert flags[0] == flags[1]
    blind = row(main_table(replace(mixed, kinds={})), "weak")
    assert blind.further.membership[0].auc.value < some.further.membership[0].auc.value
