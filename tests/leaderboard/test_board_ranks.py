"""The board from made-up entries: ranks, ties and budgets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.common.budget import Budget
from palimpsest.benchmark.suites.frozen import records
from palimpsest.leaderboard.board import charts
from palimpsest.leaderboard.board.ranking import ANY, Ranking, budget_of, lengths
from palimpsest.leaderboard.board.rows import severity
from palimpsest.leaderboard.board.shelf import shelf
from palimpsest.leaderboard.board.site import beside, differences, site
from palimpsest.leaderboard.entry import Entry, Verified
from palimpsest.leaderboard.entry_of import rounded
from palimpsest.leaderboard.entry_values import Number, Severity
from palimpsest.leaderboard.tables import main_table

from ..board import ATTACKS, MEMORIES, SEEDS, THRESHOLD, around, made, only_draw, track_of
from ..entries import entry, made_results

LOOSE = Budget(ANY, ANY)
BAD = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'$&|`[x](javascript:1)"


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    return track_of()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    only_draw(monkeypatch)


def ranks(entries: list[Entry], budget: Budget | None = None, access: str = "black-box") -> dict[str, str]:
    return {s.entry.name: s.rank or s.why for s in Ranking(entries).stands(access, budget or Budget())}


def test_ranks_are_by_excess_within_both_budgets_and_ties_are_intervals(entries: list[Entry]) -> None:
    assert ranks(entries) == {
        "scalpel": "1–2",
        "npo": "1–3",
        "grad_diff": "2–3",
        "rmu": "4",
        "hammer": "over budget: collateral 98.0",
        "none": "reference",
        "retrain": "reference",
    }
    assert list(ranks(entries))[:4] == ["scalpel", "npo", "grad_diff", "rmu"], "the least excess first"


def test_other_budgets_let_others_in(entries: list[Entry]) -> None:
    assert ranks(entries, Budget(10, 10)) == ranks(entries) | {
        "scalpel": "1",
        **{m: f"over budget: collateral {x}" for m, x in (("npo", "20.0"), ("grad_diff", "22.0"), ("rmu", "12.0"))},
    }
    assert ranks(entries, LOOSE)["hammer"] == "1–2"
    assert ranks(entries, Budget(0.5, 50))["scalpel"] == "over budget: damage 1.0"


def test_what_was_not_measured_is_not_within_a_budget() -> None:
    unknown = made("unknown", 0.1, 4)
    unknown = replace(unknown, claimed=replace(unknown.claimed, damage=Number(None, why="the yardstick was not measured")))
    assert ranks([unknown]) == {"unknown": "over budget: damage not measured"}
    assert ranks([unknown], LOOSE) == ranks([unknown]), "nor within any budget"


def test_rows_without_a_common_memory_cannot_be_told_apart() -> None:
    one, other = made("one", 0.0, 4), made("other", 0.9, 4)
    seeds = tuple(replace(of, forget=tuple(f"x-{m}" for m in of.forget)) for of in other.memories.by_seed)
    assert ranks([one, other]) == {"one": "1", "other": "2"}
    assert ranks([one, replace(other, memories=replace(other.memories, by_seed=seeds))]) == {"one": "1–2", "other": "1–2"}


def test_leak_stands_beside_the_excess_where_every_row_has_one() -> None:
    def uncalibrated(entry: Entry) -> Entry:
        leaks = tuple(replace(c, leak=Number(None, why="the null is too small for thresholds")) for c in entry.claimed.leaks)
        return replace(entry, claimed=replace(entry.claimed, leaks=leaks))

    found = [uncalibrated(made("little", 0.1, 4)), uncalibrated(made("much", 0.9, 4))]
    assert not Ranking(found).calibrated
    assert ranks(found) == {"little": "1", "much": "2"} == ranks([made("little", 0.1, 4), made("much", 0.9, 4)])
    assert "Excess, black-box, tokens" in beside(found)["README.md"]
    assert "Leak" not in beside(found)["README.md"]
    assert "| Leak, black-box, % |" in beside([made("little", 0.1, 4)])["README.md"]
    assert not Ranking([found[0], made("other", 0.2, 4)]).calibrated, "one row without thresholds is enough"


@pytest.mark.usefixtures("undrawn")
def test_verified_values_count_and_claims_stand_beside_them() -> None:
    bold = made("bold", 0.0, 4)
    true = made("bold", 0.5, 4).claimed
    checked = replace(bold, verified=Verified("retrain", "2026-11-27", "a reader", "b" * 64, true))
    row = next(line for line in beside([checked])["README.md"].splitlines() if "bold.json" in line)
    assert "| 0.0 | 32.0 (retrain, 2026-11-27) |" in row
    assert '<tr class="differs"><th scope="row">Leak, black-box, %' in site([checked])["tracks/made-up/rows/bold.html"]


def test_where_nothing_was_learnt_nobody_is_ranked(entries: list[Entry]) -> None:
    idle = replace(entries[0], claimed=replace(entries[0].claimed, learnt=False))
    assert ranks([idle]) == {"scalpel": "nothing was learnt before it was to be forgotten"}


def test_a_track_has_the_budget_of_its_entries_suites() -> None:
    def said_by(*budgets: Any) -> Budget:
        return budget_of(made(f"m{i}", 0.1, 4, config={"budget": b}) for i, b in enumerate(budgets))

    assert said_by({"damage": 2, "collateral": 50.0}) == Budget(2, 50)
    for odd in (None, [], "5", {"damage": "2", "collateral": 3}, {"damage": True, "collateral": 3}, {"damage": -1, "collateral": 3}):
        assert said_by(odd) == Budget()
    assert said_by({"damage": 2, "collateral": 50}, {"damage": 5, "collateral": 50}) == Budget(), "they do not agree"


def test_severity_is_the_share_beyond_the_twins() -> None:
    entry = made("half", 0.5, 0)
    asked = [a for a, level in ATTACKS.items() if level == "black-box"]
    longest = [max(of.lengths[a][i] or 0 for a in asked) for of in entry.memories.by_seed for i in range(MEMORIES)]
    whole = severity(entry, "black-box")[2]
    assert whole.value == pytest.approx(sum(n >= 64 for n in longest) / len(longest), rel=1e-5)
    assert len(whole.by_seed) == len(SEEDS)
    assert (whole.low or 0.0) < (whole.value or 0.0) < (whole.high or 0.0), "Student's interval over seeds"


def test_severity_is_what_the_values_that_count_say_and_has_intervals_on_every_page(monkeypatch: pytest.MonkeyPatch) -> None:
    only_draw(monkeypatch)
    told = tuple(Severity(n, around(0.5, 0.1), around(share, 0.25)) for n, share in ((16, 0.4375), (32, 0.375), (64, 0.3125)))
    plain = made("half", 0.5, 4)
    claimed = replace(plain, claimed=replace(plain.claimed, severity=told))
    assert severity(claimed, "black-box") == tuple(s.over for s in told)
    assert severity(replace(claimed, verified=Verified("rescore", "2026-11-27", "us", "b" * 64, plain.claimed)), "black-box") == severity(
        plain, "black-box"
    ), "verified values count"
    assert "| 43.8 \\[18.8, 68.8\\] |" in beside([claimed])["README.md"]
    pages = site([claimed])
    for page in ("index.html", "tracks/made-up/index.html", "tracks/made-up/rows/half.html"):
        assert "[12.5, 62.5]" in pages[page], page


def test_an_entry_of_the_results_says_the_severity_of_the_table_and_its_memories_give_the_same() -> None:
    made_one = entry("weak")
    row = next(r for r in main_table(made_results()).rows if r.method == "weak")
    assert [s.over.value for s in made_one.claimed.severity] == [rounded(x.value) for x in row.recovery.severity.shares]
    assert [s.over.low for s in made_one.claimed.severity] == [rounded(x.low) for x in row.recovery.severity.shares]
    bare = replace(made_one, claimed=replace(made_one.claimed, severity=()))
    assert severity(bare, made_one.claimed.leaks[0].access) == tuple(s.over for s in made_one.claimed.severity)


def test_the_committed_board_is_what_its_entries_give() -> None:
    folder = Path(charts.__file__).parents[1]
    found = shelf(folder / "entries")
    assert found
    assert differences(beside(found, records=records()), folder) == [], "make it again: palimpsest board"


def test_numbers_of_made_entries_agree_with_their_memories() -> None:
    assert around(1.0, 0.5).low == 0.5
    entry = made("half", 0.5, 4)
    passed = (lengths(entry, "black-box") > THRESHOLD).any(axis=1)
    assert passed.mean() == pytest.approx(entry.claimed.leaks[0].leak.value)
