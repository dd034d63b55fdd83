"""Ranks within budgets: who is ranked, which ranks a method may have, and how firm they are."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from palimpsest.benchmark.common.budget import Budget
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import Results
from palimpsest.benchmark.suites.config import load_suite
from palimpsest.leaderboard.bootstrap import resampling_weights
from palimpsest.leaderboard.frame import as_frame
from palimpsest.leaderboard.grids import grids
from palimpsest.leaderboard.headline import headline
from palimpsest.leaderboard.ranking import Draws, Place, beyond, intransitive, p_value, places, rank, redrawn, told_apart
from palimpsest.leaderboard.statistics import holm, mcnemar
from palimpsest.leaderboard.tables import MainTable, main_table

from ..synthetic import results

FREE = (0.0, 0.0)  # damage, collateral


def series(shares: Mapping[str, float], memories: int = 64, seeds: int = 3) -> dict[str, pd.Series]:
    """0/1 values with about these means; memories are alike for all methods, so that pairs are told apart by few."""
    index = pd.MultiIndex.from_product([range(seeds), [f"m{i:02d}" for i in range(memories)]], names=["seed", "memory"])
    order = np.random.default_rng(0).permutation(len(index)) / len(index)
    return {m: pd.Series((order < share).astype(float), index) for m, share in shares.items()}


def made(collateral: Mapping[str, float], bits: Mapping[str, float], leaking: Mapping[str, float], **more: object) -> Results:
    """Methods that lose these shares of the keep memories, and leak these shares of the forget memories."""

    def length(method: str, role: str, attack: str, draw: random.Random) -> int:
        if role == "keep":
            return 0 if draw.random() < collateral.get(method, 0) else 64
        if role == "forget":
            return 64 if method == "none" or (attack == "shifted_window" and draw.random() < leaking.get(method, 0)) else draw.randrange(4)
        return draw.randrange(4)

    return results(("none", *leaking, "retrain"), length=length, bits=bits, memories=96, seeds=(0, 1, 2), **more)


@pytest.fixture(scope="module")
def table() -> MainTable:
    leaking = {"scalpel": 0.3, "hammer": 0.0, "dear": 0.0, "burnt": 0.0, "leaky": 0.9}
    return main_table(made({"hammer": 0.95}, {"dear": 1.15, "burnt": 1.4, "scalpel": 1.02}, leaking))


def text(table: MainTable, key: str) -> dict[str, list[str]]:
    grid = next(g for g in grids(table) if g.key == key)
    return {r.cells[0].text: [str(c) for c in r.cells[1:]] for r in grid.rows}


# ---- who is ranked


def test_only_rows_within_both_budgets_are_ranked_however_little_the_others_give(table: MainTable):
    places = {r.method: str(r.place) for r in table.rows if r.place}
    assert places == {"scalpel": "1", "leaky": "2"}
    assert {r.method: r.over for r in table.rows if r.over} == {"hammer": ("collateral",), "dear": ("damage",), "burnt": ("collapsed",)}
    assert {r.method: r.standing for r in table.rows if r.standing} == {"scalpel": "best"}


def test_rows_over_budget_are_listed_last_with_what_exceeds(table: MainTable):
    shown = text(table, "ranking")
    assert list(shown)[:2] == ["scalpel", "leaky"]
    assert {m: cells[0] for m, cells in shown.items()} == {
        "scalpel": "1", "leaky": "2", "hammer": "over budget collateral", "dear": "over budget damage", "burnt": "over budget collapsed",
    }  # fmt: skip
    main = next(g for g in grids(table) if g.key == "main")
    assert [str(r.cells[0]) for r in main.rows] == ["none", "scalpel * rank 1", "hammer ‡", "dear ‡", "burnt †", "leaky rank 2", "retrain"]
    assert "‡ over budget (damage at most 10%, collateral at most 25 points)" in main.caption
    assert headline(table).startswith("Among the methods within the budgets (damage at most 10%, collateral at most 25 points), scalpel")


def test_the_suites_budgets_decide(table: MainTable):
    bits, leaking = {"dear": 1.15}, {"hammer": 0.0, "dear": 0.0, "leaky": 0.9}
    wide = main_table(replace(made({"hammer": 0.95}, bits, leaking), budget=Budget(20, 100)))
    assert {r.method: str(r.place) for r in wide.rows if r.place} == {"hammer": "1–2", "dear": "1–2", "leaky": "3"}
    assert sorted(r.standing for r in wide.rows if r.standing) == ["best", "tied"]
    none = main_table(replace(made({"hammer": 0.95}, bits, leaking), budget=Budget(0, 0)))
    assert {str(r.place) for r in none.rows if r.place} == {"1"}, "what costs nothing is within a budget of nothing"
    strict = main_table(replace(made({"hammer": 0.95, "leaky": 0.5}, bits, leaking), budget=Budget(0, 0)))
    assert headline(strict) == (
        "No method of this suite stayed within the budgets (damage at most 0%, collateral at most 0 points) and could be ranked."
    )


def test_what_was_not_measured_is_not_within_a_budget():
    assert Budget(10, 25).exceeded(float("nan"), 3) == ("damage not measured",)
    assert Budget(10, 25).exceeded(float("inf"), 26) == ("damage not measured", "collateral")
    assert Budget(10, 25).exceeded(10, 25) == ()
    whole = made({}, {}, {"a": 0.0, "b": 0.5})
    deaf = main_table(replace(whole, records=[r for r in whole.records if r.role != "keep"]))
    assert {r.over for r in deaf.rows if not r.reference} == {("collateral not measured",)}
    assert not any(r.place for r in deaf.rows)
    assert "stability" not in [g.key for g in grids(deaf)]


def test_a_budget_is_a_field_of_the_suite():
    assert load_suite("pocket").budget == Budget()
    assert load_suite("pocket", ["budget.collateral=50"]).budget == Budget(10, 50)
    with pytest.raises(UserError, match=r"budget.damage=-1.0: expected a number of at least 0"):
        load_suite("pocket", ["budget.damage=-1"])


# ---- which ranks


def test_ranks_reach_from_those_surely_better_to_those_surely_worse():
    apart = {("a", "d"), ("b", "d"), ("a", "c")}
    assert {m: str(p) for m, p in places(["a", "b", "c", "d"], apart).items()} == {"a": "1–2", "b": "1–3", "c": "2–4", "d": "3–4"}
    assert places(["only"], set()) == {"only": Place(1, 1)}
    assert places([], set()) == {}


def test_ties_that_are_not_transitive_are_named():
    assert intransitive("abc", {("a", "c")}) == ("a", "b", "c")
    assert intransitive("abc", {("a", "c"), ("a", "b"), ("b", "c")}) is None
    assert intransitive("abc", set()) is None
    values = series({"a": 0.30, "b": 0.325, "c": 0.35})
    found = rank({m: v.to_frame("prefix") for m, v in values.items()}, 0 * values["a"], dict.fromkeys("abc", FREE), Budget())
    assert found.circle == ("a", "b", "c")
    assert {m: str(p) for m, p in found.places.items()} == {"a": "1–2", "b": "1–3", "c": "2–3"}


def test_pairs_are_told_apart_by_mcnemar_after_holm_over_the_pairs_that_are_ranked():
    values = series({"a": 0.30, "b": 0.33, "c": 0.8})
    p = p_value((values["a"] - values["b"]).to_numpy())
    assert p == mcnemar(values["a"] == 1, values["b"] == 1)
    assert p < 0.05 < holm([p, p, p])[0], "told apart alone, not among three such pairs"
    tests = {("a", "b"): (0.03, -0.1), ("a", "c"): (0.03, 0.4), ("b", "c"): (0.9, 0.1)}
    assert told_apart(tests, "abc") == set()
    assert told_apart(tests, "ab") == {("a", "b")}
    assert told_apart(tests, "ac") == {("c", "a")}


# ---- how firm


def test_weights_are_draws_of_seeds_and_of_memories_within_them():
    sizes = [4, 10]
    weights = resampling_weights(sizes, 4000)
    assert weights.shape == (4000, 14)
    assert weights.sum(axis=1) == pytest.approx(np.ones(4000))
    of_seed = weights[:, :4].sum(axis=1)
    assert set(np.round(of_seed, 9)) == {0, 0.5, 1}
    assert np.mean(of_seed == 0.5) == pytest.approx(0.5, abs=0.03)
    assert (resampling_weights(sizes, 10) == resampling_weights(sizes, 10)).all()
    alike = np.repeat([1.0, 3.0], sizes)
    assert (weights @ alike).std() == pytest.approx(1 / np.sqrt(2), abs=0.02), "the spread between seeds is in"
    with pytest.raises(ValueError, match="needs a memory"):
        resampling_weights([3, 0], 5)


def drawn(shares: Mapping[str, float]) -> dict[str, Draws]:
    return redrawn(list(shares), list(series(shares).values()))


def test_a_clear_lead_stands_in_all_draws_and_equals_share_the_first_place():
    draws = drawn({"clear": 0.1, "twin": 0.5, "same": 0.5})
    assert (draws["clear"].first, draws["clear"].middle) == (1, Place(1, 1))
    assert draws["twin"] == draws["same"]
    assert draws["twin"].middle == Place(2, 2)
    close = drawn({"a": 0.30, "b": 0.31})
    assert 0.5 < close["a"].first <= 1
    assert str(close["b"].middle) == "1–2"
    assert redrawn([], []) == {}


def test_ranks_over_budgets_stand_beside_each_other(table: MainTable):
    grid = next(g for g in grids(table) if g.key == "stability")
    assert grid.header == ["Method", "First, % of draws", "95% of draws", "2%, 10 points", "5%, 25 points", "10%, 50 points", "no budgets"]
    shown = text(table, "stability")
    assert set(shown) == {"scalpel", "leaky", "hammer", "dear"}, "what collapsed is never ranked"
    assert shown["scalpel"] == ["100.0", "1", "1", "1", "1", "3"]
    assert shown["hammer"] == ["–", "–", "over budget", "over budget", "over budget", "1–2"]


def test_the_frame_holds_ranks(table: MainTable):
    frame = as_frame(table).set_index("method")
    assert frame.loc["leaky", ["rank_first", "rank_last"]].tolist() == [2, 2]
    assert np.isnan(frame.loc["hammer", "rank_first"])
    assert frame.loc["hammer", "over_budget"] == "collateral"


def test_of_two_rows_from_which_every_memory_is_recovered_the_one_that_says_less_is_ahead():
    whole = made({}, {}, {"a": 1.0, "b": 1.0})
    cut = [replace(r, matched=min(r.matched, 20)) if (r.method, r.role) == ("a", "forget") else r for r in whole.records]
    table = main_table(replace(whole, records=cut))
    rows = {r.method: r for r in table.rows}
    assert {m: rows[m].recovery.leaks[0].leak.value for m in "ab"} == {"a": 1, "b": 1}
    assert {m: str(rows[m].place) for m in "ab"} == {"a": "1", "b": "2"}
    own = rows["a"].recovery.worst_length.value - table.twin.recovery.worst_length.value
    assert f"a holds back best: on average {own:.1f} [" in headline(table)
    assert "tokens more than from the twin come back under black-box attacks." in headline(table)


def lengths(**attacks: list[float | None]) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([[0], ["m0", "m1", "m2"]], names=["seed", "memory"])
    return pd.DataFrame(attacks, index, dtype=float)


def test_methods_are_compared_on_the_questions_that_all_were_asked():
    resists = lengths(prefix=[5, 30, 9], search=[20, None, None])  # a search goes on where nothing cheaper had success
    gives = lengths(prefix=[9, 40, 64], search=[None, None, None])
    twin = lengths(longest=[2, 2, 70])["longest"]
    a, b = beyond([resists, gives], twin)
    assert a.tolist() == [3, 28, 0], "the search counts for neither, and less than the twin's is no gain"
    assert b.tolist() == [7, 38, 0]
    assert beyond([resists], twin)[0].tolist() == [18, 28, 0]
    without = beyond([resists, gives], pd.Series(dtype=float))
    assert [x.tolist() for x in without] == [[5, 30, 9], [9, 40, 64]]
    assert [len(x) for x in beyond([resists, gives.iloc[:0]], twin)] == [0, 0]
    assert beyond([], twin) == []


def test_a_method_that_is_asked_more_where_it_resists_is_not_ranked_behind_for_it():
    whole = made({}, {}, {"a": 1.0, "b": 1.0})
    cut = {"a": 12, "b": 15}
    forget = [r for r in whole.records if r.role == "forget"]
    short = [replace(r, matched=min(r.matched, cut.get(r.method, 64))) for r in forget]
    beams = [replace(r, attack="beam", extra=True, matched=30) for r in short if (r.method, r.attack) == ("a", "prefix")]
    of_twin = [replace(r, attack="beam", matched=1) for r in forget if (r.method, r.attack) == ("twin", "prefix")]
    records = [*short, *beams, *of_twin, *(r for r in whole.records if r.role != "forget")]
    table = main_table(replace(whole, records=records))
    rows = {r.method: r for r in table.rows}
    assert rows["a"].recovery.worst_length.value == 30
    assert {m: str(rows[m].place) for m in "ab"} == {"a": "1", "b": "2"}
    caption = next(g for g in grids(table) if g.key == "ranking").caption
    assert "At black-box some attacks were asked about survivors only" in caption


def test_nothing_is_gained_by_saying_less_than_the_twin():
    whole = made({}, {}, {"a": 0.0, "b": 0.0})
    mute = [replace(r, matched=0) if (r.method, r.role) == ("a", "forget") else r for r in whole.records]
    like = [replace(r, matched=0) if (r.method, r.role) == ("b", "forget") and r.matched < 3 else r for r in mute]
    table = main_table(replace(whole, records=[replace(r, matched=3) if r.method == "twin" else r for r in like]))
    rows = {r.method: r for r in table.rows}
    assert rows["a"].recovery.leaks[0].excess.value < rows["b"].recovery.leaks[0].excess.value < 0
    assert {m: str(rows[m].place) for m in "ab"} == {"a": "1–2", "b": "1–2"}


def test_ranks_are_alike_with_thresholds_and_without():
    every = made({}, {}, {"a": 0.0, "b": 0.8})
    first = replace(every, seeds=(0,), records=[r for r in every.records if r.seed == 0], quality=[q for q in every.quality if q.seed == 0])
    tables = [main_table(every), main_table(first)]
    assert [t.calibrated for t in tables] == [True, False]
    for table in tables:
        assert {r.method: str(r.place) for r in table.rows if r.place} == {"a": "1", "b": "2"}
        assert "paired permutation test" in next(g for g in grids(table) if g.key == "ranking").caption
