"""What tells no two rows of a track apart, from its entries: the same that the table of their results says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from palimpsest.leaderboard.board.dead_weight import dead_weight
from palimpsest.leaderboard.board.ranking import Ranking
from palimpsest.leaderboard.board.site import site
from palimpsest.leaderboard.entry import Entry
from palimpsest.leaderboard.entry_of import entry_of
from palimpsest.leaderboard.tables import main_table

from ..board import around, made, only_draw
from ..entries import about, made_results
from ..synthetic import results


@pytest.mark.parametrize("found", [made_results(), results(("none", "weak", "strong"))], ids=["tokens", "thresholds"])
def test_it_is_that_of_the_table(found) -> None:
    table = main_table(found)
    entries = [entry_of(found, table, r.method, about(r.method)) for r in table.rows]
    mine, theirs = dead_weight(Ranking(entries), table.access), table.dead_weight
    assert set(mine.attacks) == set(theirs.attacks)
    assert replace(mine, attacks=()) == replace(theirs, attacks=())
    assert theirs.memory_count


def lengths(entry: Entry, **attacks: int) -> Entry:
    """The entry with so many tokens of every memory back by these attacks, and nothing by others."""
    known = entry.memories
    seeds = tuple(replace(of, lengths={a: (attacks.get(a, 0),) * len(of.forget) for a in of.lengths}) for of in known.by_seed)
    return replace(entry, memories=replace(known, by_seed=seeds))


def test_attacks_and_memories_are_named_on_the_tracks_page(monkeypatch: pytest.MonkeyPatch) -> None:
    only_draw(monkeypatch)
    rows = [lengths(made(name, 0.1, 4), prefix=64, paraphrase=64, relearn=64 * (name == "b")) for name in ("a", "b")]
    found = dead_weight(Ranking(rows), "black-box")
    assert (found.attack_count, len(found.always), found.never, found.memory_count) == (8, 96, (), 96)
    assert set(found.attacks) == {*rows[0].memories.attacks} - {"soft_prompt"}, "of several that do the same all are named"
    once = [lengths(made("a", 0.1, 4), prefix=64), lengths(made("b", 0.1, 4), relearn=64)]
    assert {"prefix", "relearn"}.isdisjoint(dead_weight(Ranking(once), "black-box").attacks)
    page = site(once)["tracks/made-up/index.html"]
    section = page[page.index("<h2>Dead weight</h2>") : page.index("<h2>Frozen inputs</h2>")]
    assert "6 of 8 attacks read nowhere further than all others." in section
    assert "<li>shifted_window</li>" in section
    assert "forget memories" not in section, "each memory is lost by one and not by the other"


def test_collapsed_rows_and_references_lose_no_memory_for_others() -> None:
    kept = [lengths(made(name, 0.1, 4), prefix=64) for name in ("a", "b")]
    broken = replace(lengths(made("broken", 0.1, 4)), claimed=replace(made("broken", 0.1, 4).claimed, damage=around(40.0, 1.0)))
    for others in ([broken], [lengths(made("retrain", 0.0, 3))]):
        assert len(dead_weight(Ranking([*kept, *others]), "black-box").always) == 96


def test_one_method_is_never_dead_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    found = dead_weight(Ranking([made("a", 0.1, 4)]), "black-box")
    assert (found.never, found.always, found.memory_count) == ((), (), 0)
