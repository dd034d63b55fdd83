"""An entry says what its results say, is read as strictly as it is written, and the same entry gives the same bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import HORIZON, OperatingPoint
from palimpsest.benchmark.scoring.score import Score
from palimpsest.leaderboard.entry import entry_from, read_entry
from palimpsest.leaderboard.entry_of import entry_of, number, points_of, rounded
from palimpsest.leaderboard.reproduction import surroundings
from palimpsest.leaderboard.statistics import NOWHERE, Estimate
from palimpsest.leaderboard.tables import main_table
from tests.entries import about, entry, made_results
from tests.synthetic import results

ENTRIES = Path(__file__).parents[2] / "leaderboard" / "entries" / "quick"


def test_it_is_read_as_it_was_written_and_gives_the_same_bytes() -> None:
    made = entry(verified="rescore")
    text = made.as_json()
    assert entry_from(text) == made
    assert entry_from(text.encode()).as_json() == text
    assert entry("weak").as_json() == entry_of(made_results(), main_table(made_results()), "weak", about()).as_json()


def test_its_values_are_those_of_the_table() -> None:
    made = entry().claimed
    row = next(r for r in main_table(made_results()).rows if r.method == "weak")
    assert made.exact.value == rounded(row.recovery.exact.value)
    assert made.damage.by_seed == tuple(rounded(v) for v in row.utility.damage.by_seed)
    assert [c.access for c in made.leaks] == [c.access for c in row.recovery.leaks]
    assert made.leaks[0].excess.low == rounded(row.recovery.leaks[0].excess.low)
    assert {a.attack: a.matched.value for a in made.attacks} == {a.attack: rounded(a.matched.value) for a in row.recovery.attacks}


def test_without_enough_null_a_leak_is_null_and_says_why() -> None:
    made = entry().claimed
    assert not made.calibrated
    assert (made.leaks[0].leak.value, made.leaks[0].leak.why) == (None, "the null is too small for thresholds")


def test_with_thresholds_a_leak_is_the_difference_of_its_sides_and_follows_from_the_lengths() -> None:
    found = results()
    made = entry_of(found, main_table(found), "weak", about())
    leak, of = made.claimed.leaks[0], made.memories
    assert leak.leak.value == pytest.approx(leak.recovered.value - leak.twin.value)
    shares = []
    for seed in of.by_seed:
        held = [i for i, v in enumerate(seed.held) if v == HORIZON]
        limits = of.thresholds[leak.access]
        calls = [any((seed.lengths[a][i] or 0) > limits[a] for a in limits) for i in held]
        shares.append(sum(calls) / len(calls))
    assert sum(shares) / len(shares) == pytest.approx(leak.recovered.value)


def test_every_memory_has_its_lengths() -> None:
    found = made_results()
    score, made = Score(found.records, found.twin, found.diagnostics), entry()
    for of in made.memories.by_seed:
        lengths = score.lengths("weak").xs(of.seed, level="seed")
        assert set(of.forget) == set(lengths.index)
        assert all(of.lengths[a] == tuple(int(v) for v in lengths.loc[list(of.forget), a]) for a in of.lengths)
        assert of.keep
        assert set(of.twin) == set(score.levels)
    assert made.memories.attacks.keys() >= {"prefix", "relearn", "soft_prompt"}
    assert made.memories.diagnostics == ("soft_prompt", "unchanged")


def test_costs_evaluations_and_texts_are_those_of_the_method_alone() -> None:
    made = entry()
    assert [c.seed for c in made.cost] == [0, 1]
    assert [(e.seed, e.step) for e in made.trajectory] == [(s, t) for s in (0, 1) for t in (0, 4, 8)]
    assert set(made.excerpts[0].said) == {"base", "none", "weak"}


def test_numbers_have_six_digits_and_no_nan_is_written() -> None:
    assert rounded(1 / 3) == 0.333333
    assert rounded(123456789.0) == 123457000.0
    assert str(rounded(-0.0)) == "0.0"
    assert number(Estimate(math.nan, *NOWHERE)).value is None
    assert number(Estimate(2.0, *NOWHERE)).why == "too few values for an interval"
    assert "NaN" not in entry().as_json()


def test_lists_of_lengths_stand_on_one_line() -> None:
    lines = entry().as_json().splitlines()
    assert sum(line.strip().startswith('"prefix": [') for line in lines) == 2
    assert max(len(line) for line in lines if "[" not in line) < 400


def set_at(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(plain: dict[str, Any]) -> None:
        *way, last = path.split(".")
        for word in way:
            plain = plain[int(word)] if isinstance(plain, list) else plain[word]
        plain[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_at("extra", 1), "There is no field named 'extra'"),
        (set_at("claimed.exact.extra", 1), r"entry\.claimed\.exact: There is no field named 'extra'"),
        (set_at("claimed.exact.value", "0.5"), r"entry\.claimed\.exact\.value: expected float, got str"),
        (set_at("claimed.exact.count", -1), "count=-1: expected at least 0"),
        (set_at("claimed.learnt", 1), "expected bool, got int 1"),
        (set_at("seeds", [0]), "not those of its seeds"),
        (set_at("seeds", 0), "expected a list"),
        (set_at("schema", 99), "schema 99; expected 1"),
        (set_at("name", "../x"), "expected a plain word"),
        (set_at("paper", "javascript:alert(1)"), "an address that begins with https"),
        (set_at("doc", "\x1b[31mred"), "control character U\\+001B"),
        (set_at("date", "yesterday"), "expected a date"),
        (set_at("claimed.tasks.0.unit", "miles"), "expected '%' or 'points'"),
        (set_at("verified.level", "trust-me"), "expected schema, rescore, spotcheck or retrain"),
        (set_at("memories.by_seed.0.opening", [1]), "opening has 1 lengths for 16 memories"),
        (set_at("memories.by_seed.0.lengths.prefix", [65] * 16), "the length 65; expected 0 to 64"),
        (set_at("memories.by_seed.0.lengths.unheard_of", [1] * 16), "There is no attack named 'unheard_of'"),
        (lambda plain: plain.pop("claimed"), "entry: missing claimed"),
    ],
)
def test_what_is_wrong_is_refused_by_name(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    plain = json.loads(entry(verified="rescore").as_json())
    change(plain)
    with pytest.raises(UserError, match=message):
        entry_from(json.dumps(plain))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('{"a": NaN}', "NaN, which is no JSON number"),
        ('{"a": -Infinity}', "-Infinity, which is no JSON number"),
        ('{"a": 1e999}', "1e999, which is no JSON number"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "is not JSON"),
        (b"\xff{}", "is not JSON"),
        ("[]", "expected an object"),
    ],
)
def test_what_is_no_strict_json_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        entry_from(text)


def test_the_points_of_a_run_with_strengths_are_its_curve() -> None:
    found = results(("none", "weak@2", "weak@0.5", "strong"), seeds=(0,), memories=48)
    points = [OperatingPoint(f"weak@{s:g}", "weak", s, "lr", s * 1e-3) for s in (2.0, 0.5)]
    found = replace(found, points=[*points, OperatingPoint("other", "other", 1.0, "lr", 1.0)])
    table = main_table(found)
    made = points_of(found, table, "weak")
    assert [(p.field, p.value) for p in made] == [("lr", 0.5e-3), ("lr", 2e-3)]
    row = next(r for r in table.rows if r.method == "weak@0.5")
    assert made[0].tokens.value == rounded(row.recovery.worst_length.value)
    assert made[0].damage.value == rounded(row.utility.damage.value)


def test_what_a_model_says_may_hold_any_character_and_an_entry_shows_it_as_text() -> None:
    found = made_results()
    odd = replace(found.excerpts[0], said={"weak": "bell\x07, page\x0c, line\n"})
    made = entry_of(replace(found, excerpts=[odd]), main_table(found), "weak", about())
    assert made.excerpts[0].said["weak"] == "bell\ufffd, page\ufffd, line\n"
    assert entry_from(made.as_json()) == made


def test_a_method_without_a_row_is_named() -> None:
    found = made_results()
    with pytest.raises(UserError, match="There is no method with a row named 'twin'"):
        entry_of(found, main_table(found), "twin", replace(about(), name="x"))


def test_what_an_entry_of_before_does_not_tell_is_no_difference_to_a_row_made_again() -> None:
    before = entry()

    def with_attack(source: str) -> Any:
        return replace(
            before, versions=replace(before.versions, attacks={"prefix": source}), hashes=replace(before.hashes, deepspeed="d5" * 8)
        )

    assert list(surroundings(before, with_attack("a1"))) == []
    assert list(surroundings(with_attack("b2"), with_attack("a1"))) == ["code of the attack prefix b2, here a1"]


@pytest.mark.parametrize(
    ("method", "seen"),
    [("none", "nothing"), ("retrain", "history without forget"), ("gradient_ascent", "forget"), ("npo", "forget, shown, retain")],
)
def test_what_a_method_may_have_seen_is_said_of_committed_entries_too(method: str, seen: str) -> None:
    """`retrain` never sees a forget text, though entries of before say that it was handed them."""
    assert read_entry(ENTRIES / f"{method}.json").may_see == seen
