"""Flags: each is raised by the model it is about, and by no other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from palimpsest.benchmark.common.plugins import find
from palimpsest.benchmark.common.types import Record, Value
from palimpsest.benchmark.scoring.score import Score
from palimpsest.leaderboard.flags import FLAGS, Evidence, FlagCell, below_unseen, by_chance, flags_of, high_nulls
from palimpsest.leaderboard.grids import grids
from palimpsest.leaderboard.tables import main_table
from palimpsest.leaderboard.values import ValueScore

from ..synthetic import battery, record, results, value


def found(records: list[Record], values: list[Value] | None = None) -> dict[str, FlagCell]:
    """The flags on `npo` by their name."""
    evidence = Evidence(Score(records or [record("npo", "a", 0)], "twin"), ValueScore(values or [], "twin"), {})
    return {cell.flag.name: cell for cell in flags_of(evidence, "npo")}


def raised(cells: dict[str, FlagCell]) -> set[str]:
    return {name for name, cell in cells.items() if cell.raised}


def test_marks_are_short_and_each_stands_for_one_flag():
    assert len({f.mark for f in FLAGS}) == len(FLAGS)
    assert all(len(f.mark) == 1 for f in FLAGS)


def test_a_model_about_which_nothing_is_known_has_no_flag():
    cells = found([])
    assert raised(cells) == set()
    assert cells["stochastic"].numbers == {}


def test_answers_that_differ_and_texts_that_are_not_what_was_read():
    checks = [value("npo", m, "checks", "stochastic", float(m == "a")) for m in "abcd"]
    checks += [value("npo", m, "checks", "generated_differs", 0.0) for m in "abcd"]
    cells = found([], checks)
    assert raised(cells) == {"stochastic"}
    assert cells["stochastic"].numbers == {0: 25}
    assert raised(found([], [value("npo", "", "checks", "generated_differs", 1.0, role="")])) == {"wrapped"}


def test_masked_gradients_are_black_box_attacks_that_read_much_further_than_white_box_ones():
    def lengths(black: int, white: int) -> list[Record]:
        gcg = record("npo", "a", white, attack="gcg", access="white-box", tier=3)
        return [record("npo", "a", black), record("npo", "b", 64), gcg]

    assert raised(found(lengths(30, 10))) == {"masked gradients"}
    assert found(lengths(30, 10))["masked gradients"].numbers == {0: 20}  # b was not asked by both
    assert raised(found(lengths(18, 10))) == set()
    assert raised(found(lengths(10, 30))) == set()
    window = record("npo", "a", 60, attack="shifted_window", variant="k16", start=4, offset=20)
    assert raised(found([*lengths(10, 10), window])) == set()  # another target
    lens = record("npo", "a", 1, attack="logit_lens", access="white-box")
    assert found([record("npo", "a", 60), lens])["masked gradients"].numbers == {}  # it follows no gradient


def scored(method: str, forget: list[float], unseen: list[float], seed: int = 0) -> list[Value]:
    roles = {"forget": forget, "unseen": unseen}
    return [value(method, f"{role}-{i}", "loss", "loss", x, role=role, seed=seed) for role, xs in roles.items() for i, x in enumerate(xs)]


def test_over_forgetting_is_to_be_less_likely_than_anything_unseen():
    ordinary, twin = [-4.0 + 0.01 * i for i in range(20)], scored("twin", [-4.0] * 20, [-9.5] * 20)
    over = [*scored("npo", [-9.0] * 8 + [-3.9] * 12, ordinary), *twin]
    assert raised(found([], over)) == {"over-forgetting"}
    assert found([], over)["over-forgetting"].numbers == {0: 40}
    assert raised(found([], [*scored("npo", [-9.0] * 3 + [-3.9] * 17, ordinary), *twin])) == set()  # 15%, but p is .12


@pytest.mark.parametrize("memories", [16, 32, 64])
def test_a_harmless_model_is_rarely_called_over_forgetting(memories: int):
    rng = np.random.default_rng(memories)
    drawn = [v for seed in range(600) for v in scored("npo", *(rng.normal(size=memories).tolist() for _ in range(2)), seed)]
    evidence = Evidence(Score([], "twin"), ValueScore(drawn, "twin"), {})
    shares, chances = below_unseen(evidence, "npo"), by_chance(evidence, "npo")
    assert np.mean([x > 5 for x in shares.values()]) > 0.04  # by the share alone it would often be
    assert np.mean([shares[seed] > 5 and chances[seed] < 0.01 for seed in shares]) < 0.02


def test_a_model_that_answers_at_random_is_noise_against_the_twin():
    ordinary = [-4.0 + 0.01 * i for i in range(20)]
    random = [*scored("npo", [-8.3] * 20, [-8.3] * 20), *scored("twin", ordinary, ordinary)]
    assert raised(found([], random)) == {"noise"}
    damaged = [*scored("npo", [x - 0.05 for x in ordinary], [x - 0.05 for x in ordinary]), *scored("twin", ordinary, ordinary)]
    assert raised(found([], damaged)) == set()


def test_a_suppression_cliff_is_an_opening_that_fails_where_a_small_edit_succeeds():
    def edited(opening: int, matched: int, **fields: object) -> set[str]:
        return raised(found([record("npo", "a", opening), record("npo", "a", matched, **fields)]))

    assert edited(3, 60, attack="typos", variant="upper", asks="edit") == {"suppression cliff"}, "whatever it is called"
    assert edited(3, 60, attack="formatting", variant="upper", asks="") == set(), "an attack of that name that declares no edit"
    assert edited(3, 60, attack="shifted_window", variant="k16", start=2) == set()
    assert edited(8, 60, attack="typos", variant="upper", asks="edit") == set()
    assert edited(3, 31, attack="typos", variant="upper", asks="edit") == set()


@pytest.mark.parametrize(("attack", "edits", "others"), [
    ("formatting", ("case", "space", "typo1", "clipped"), ()),
    ("filler", ("newline", "bos", "filler8"), ("filler32", "filler128")),
    ("word_substitution", ("single",), ("third",)),
    ("prefix", (), ("opening", "k8")),
])  # fmt: skip
def test_shipped_attacks_declare_their_edits(attack: str, edits: tuple[str, ...], others: tuple[str, ...]):
    asks = find("attack", attack).cls.asks  # type: ignore[attr-defined]
    assert {v: asks.get(v, asks.get("")) == "edit" for v in (*edits, *others)} == dict.fromkeys(edits, True) | dict.fromkeys(others, False)


def test_an_attack_that_reached_less_than_nine_tenths_of_the_body_is_flagged():
    def covered(*shares: float) -> dict[str, FlagCell]:
        return found([], [value("npo", "", f"attack-{i}", "covered", x, role="") for i, x in enumerate(shares)])

    assert raised(covered(0.11)) == {"partly attacked"}
    assert covered(1.0, 0.75)["partly attacked"].numbers == {0: 25}
    assert raised(covered(0.91, 1.0)) == set()
    assert covered()["partly attacked"].numbers == {}


def test_a_small_update_is_flagged_and_the_held_model_has_none():
    small = [value(m, "", "checks", "undone_by_int4", 1.0, role="") for m in ("npo", "none")]
    assert raised(found([], small)) == {"small update"}
    evidence = Evidence(Score([record("none", "a", 64)], "twin"), ValueScore(small, "twin"), {})
    assert not any(cell.raised for cell in flags_of(evidence, "none"))


def test_a_flag_says_in_which_seeds_it_is_raised():
    checks = [value("npo", "a", "checks", "stochastic", float(seed == 2), seed=seed) for seed in (0, 2)]
    assert found([], checks)["stochastic"].raised == (2,)


def test_a_null_that_reads_far_by_chance_is_named():
    far = results(length=lambda m, role, attack, d: 40 if attack == "paraphrase" else d.randrange(4))
    assert high_nulls(Score(far.records, "twin")) == {"paraphrase": 40}
    assert "Null too high" in grids(main_table(far))[0].caption


def test_flags_stand_beside_the_row_in_the_caption_and_with_their_number():
    table = main_table(replace(battery(), quality=results(bits={"weak": 1.5}, memories=3, seeds=(0, 1)).quality))
    main, flags = (next(g for g in grids(table) if g.key == key) for key in ("main", "flags"))
    names = {str(r.cells[0]) for r in main.rows}
    assert {"weak † flags g", "none", "retrain"} <= names
    assert any(n.startswith("strong") and n.endswith("flags o r q") for n in names)
    assert "g wrapped: generated texts" in main.caption
    assert "s stochastic" not in main.caption
    weak = next(r for r in flags.rows if r.cells[0].text == "weak")
    shown = dict(zip(flags.header, map(str, weak.cells), strict=True))
    assert shown["collapsed, %"] == "50.0 † seeds 0, 1"
    assert shown["wrapped, %"] == "100.0 g seeds 0, 1"
    assert "stochastic, %" not in shown  # nothing was measured


@pytest.mark.parametrize("method", ["none", "retrain"])
def test_the_references_of_an_ordinary_run_have_no_flags(method: str):
    row = next(r for r in main_table(battery()).rows if r.method == method)
    assert [f.flag.name for f in row.flags if f.raised] == []


def test_nothing_is_masked_in_the_held_model_however_weak_the_searches():
    records = [record("none", "a", 64), record("none", "a", 10, attack="gcg", access="white-box", tier=3)]
    evidence = Evidence(Score(records, "twin"), ValueScore([], "twin"), {})
    assert {c.flag.name: c.numbers for c in flags_of(evidence, "none")}["masked gradients"] == {}
