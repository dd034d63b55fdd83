"""Two runs compared: what is worse is said and what is noise is not; what cannot be compared is refused."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.facts import MUST_AGREE, RunFacts
from palimpsest.benchmark.common.types import Results
from palimpsest.leaderboard.diff import Diff, Row, compare, margins_from
from palimpsest.leaderboard.diff_text import as_json, summary, text, workflow_commands
from palimpsest.leaderboard.side import Side, side_of

from ..synthetic import results, typical

FACTS = RunFacts(base="b", memories="m", row=160, attacks={"prefix": {"lengths": [8, 16]}}, methods={"weak": {"lr": 1e-4}})


def half(method: str, role: str, attack: str, draw: random.Random) -> int:
    """As it was, but half of what `strong` had erased comes back under one attack."""
    back = method == "strong" and role == "forget" and attack == "shifted_window" and draw.random() < 0.5
    return 40 if back else typical(method, role, attack, draw)


@pytest.fixture(scope="module")
def made() -> Results:
    return results()


@pytest.fixture(scope="module")
def old(made: Results) -> Side:
    return side_of(made, FACTS)


@pytest.fixture(scope="module")
def broken() -> Side:
    return side_of(results(length=half), FACTS)


@pytest.fixture(scope="module")
def small() -> Results:
    """One seed, 8 memories of each role, as the smoke suite: no thresholds."""
    return results(seeds=(0,), memories=24)


def row(diff: Diff, measure: str, method: str = "strong") -> Row:
    return next(r for r in diff.rows if (r.method, r.measure) == (method, measure))


# ---- verdicts


def test_a_run_is_no_worse_than_itself_and_that_is_certain(old: Side) -> None:
    diff = compare(old, old)
    assert diff.exit == 0
    assert {r.method for r in diff.rows} == {"weak", "strong"}, "the held and the retrained model are no methods"
    assert {r.measure for r in diff.rows} == {"leak:black-box", "tokens:black-box", "exact", "damage", "collateral", "cost", "seconds"}
    assert {r.verdict for r in diff.rows} == {"no worse", "not judged"}
    assert (diff.changes, diff.notes) == ([], [])
    assert "all readings are the same" in text(diff)


def test_a_method_that_was_made_worse_is_named_with_its_memories(old: Side, broken: Side) -> None:
    diff = compare(old, broken)
    assert diff.exit == 1
    assert {(r.method, r.measure) for r in diff.worse} == {("strong", "leak:black-box"), ("strong", "tokens:black-box")}
    leak = row(diff, "leak:black-box")
    assert (leak.old, leak.unit, leak.margin) == (pytest.approx(1.04, abs=0.01), "points", 5.0)
    assert leak.difference.low > 5
    assert leak.p < 0.025
    back = [c for c in diff.changes if c.method == "strong" and c.kind == "came back"]
    assert len(back) > 60
    assert {(c.attack, c.access, c.new) for c in back} == {("shifted_window", "black-box", 40)}


def test_the_other_way_round_it_is_better(old: Side, broken: Side) -> None:
    diff = compare(broken, old)
    assert diff.exit == 0
    assert row(diff, "leak:black-box").verdict == row(diff, "tokens:black-box").verdict == "better"
    assert sum(c.kind == "went" for c in diff.changes) > 60


def test_two_trainings_of_the_same_thing_are_no_worse_than_each_other(old: Side) -> None:
    for a, b in (("twin", "retrain"), ("retrain", "twin")):
        diff = compare(old, old, renamed={a: b})
        assert diff.exit == 0
        assert {r.method for r in diff.rows} == {b}
        assert row(diff, "leak:black-box", b).verdict == "no worse"


def _noisy(word: str) -> Any:
    draw = random.Random(word)
    return lambda method, role, attack, _: 64 if role == "keep" or method == "none" else min(int(draw.expovariate(0.2)), 64)


def test_a_method_can_be_compared_with_another(old: Side) -> None:
    diff = compare(old, old, renamed={"strong": "weak"})
    assert diff.pairs == (("strong", "weak"),)
    assert row(diff, "leak:black-box", "weak").verdict == "worse"
    assert row(diff, "cost", "weak").verdict == "better"


def test_margins_decide(old: Side, broken: Side) -> None:
    wide = margins_from(["leak=99", "tokens:black-box=60"])
    assert compare(old, broken, margins=wide).exit == 0
    assert row(compare(old, broken, margins=wide), "leak:black-box").verdict == "no worse"
    narrow = margins_from(["seconds=1", "cost=0"])
    diff = compare(old, old, renamed={"weak": "strong"}, margins=narrow)
    assert {row(diff, m).verdict for m in ("cost", "seconds")} == {"worse"}


def test_few_memories_cannot_tell(small: Results) -> None:
    draws = [side_of(results(seeds=(0,), memories=24, length=_noisy(w)), FACTS) for w in "ab"]
    diff = compare(*draws)
    assert diff.exit == 0
    assert row(diff, "exact").verdict == "cannot tell"
    assert "leak:black-box" not in {r.measure for r in diff.rows}, "no thresholds, no leak"
    assert "it cannot be told" in text(diff)


def test_many_rows_need_more_evidence() -> None:
    """Six of 8 memories more: alone worse, among the rows of twelve methods that are noise not so sure."""
    methods = ("none", *(f"m{i}" for i in range(12)))

    def some(back: bool) -> Any:
        draw = random.Random(back)

        def length(method: str, role: str, attack: str, _: random.Random) -> int:
            if role == "keep" or method == "none":
                return 64
            return 64 * (back and draw.random() < 0.75) if method == "m0" and attack == "prefix" else draw.randrange(8)

        return length

    runs = [side_of(results(methods, (0,), 24, some(b)), FACTS) for b in (False, True)]
    margins = margins_from(["tokens=60", "exact=5"])
    alone, among = (compare(*runs, methods=only, margins=margins) for only in (["m0"], []))
    assert row(alone, "exact", "m0").verdict == "worse"
    assert row(alone, "exact", "m0").difference == row(among, "exact", "m0").difference
    assert row(among, "exact", "m0").p > 5 * row(alone, "exact", "m0").p


# ---- single measures


def test_a_model_that_computes_no_number_is_worse_whatever_else_it_says(small: Results) -> None:
    gone = replace(small, quality=results(seeds=(0,), memories=24, bits={"weak": float("nan")}).quality)
    diff = compare(side_of(small, FACTS), side_of(gone, FACTS))
    assert [(r.method, r.measure, r.why) for r in diff.worse] == [("weak", "damage", "the new value is no finite number")]
    assert compare(side_of(gone, FACTS), side_of(small, FACTS)).exit == 0


def test_damage_is_paired_by_document(small: Results) -> None:
    more = replace(small, quality=results(seeds=(0,), memories=24, bits={"weak": 1.05}).quality)
    found = row(compare(side_of(small, FACTS), side_of(more, FACTS)), "damage", "weak")
    assert (found.verdict, found.new) == ("worse", pytest.approx(5.0))
    assert found.difference.high - found.difference.low < 0.01
    other = replace(more, quality=[replace(q, task_hash="other") for q in more.quality])
    assert row(compare(side_of(small, FACTS), side_of(other, FACTS)), "damage", "weak").verdict == "cannot tell"


def test_collateral_is_read_from_hidden_keep_memories_that_both_held_models_repeat(made: Results, old: Side) -> None:
    def forgets(method: str, role: str, attack: str, draw: random.Random) -> int:
        return 3 if method == "strong" and role == "keep" else typical(method, role, attack, draw)

    diff = compare(old, side_of(results(length=forgets), FACTS))
    assert row(diff, "collateral").verdict == "worse"
    lost = [c for c in diff.changes if c.kind == "lost"]
    assert {(c.old, c.new, c.access) for c in lost} == {(64, 3, "")}
    shown = {r.memory for r in made.records if r.role == "keep" and r.shown and r.seed == 0}
    assert not shown & {c.memory for c in lost if c.seed == 0}


def test_only_questions_that_both_were_asked_are_compared(small: Results) -> None:
    """A memory that a cheap attack recovers is not asked by dear ones: its longest match must not look shorter for that."""
    dear = [
        replace(r, attack="dear", matched=64)
        for r in small.records
        if r.method == "weak" and r.attack == "paraphrase" and r.role == "forget"
    ]
    asked = side_of(replace(small, records=[*small.records, *dear]), FACTS)
    spared = side_of(replace(small, records=[*small.records, *dear[:2]]), FACTS)
    assert row(compare(asked, spared), "tokens:black-box", "weak").difference.value == 0


def test_costs_are_counts_and_need_no_test(small: Results) -> None:
    dear = replace(small, costs=[replace(c, flops=c.flops * 1.5) for c in small.costs])
    found = row(compare(side_of(small, FACTS), side_of(dear, FACTS)), "cost", "weak")
    assert (found.verdict, found.difference.value, found.difference.low) == ("worse", pytest.approx(50), pytest.approx(50))


# ---- what cannot be compared


OTHER = {"base": "x", "corpus": "x", "memories": "x", "row": 128, "per_role": 8, "roles": "x", "injection": {"lr": 1.0}, "attacks": {}}
OTHER |= {"reasked": ("prefix",), "ask": "all", "subset": 4, "quality": {"documents": 3}}


@pytest.mark.parametrize("name", MUST_AGREE)
def test_runs_that_asked_something_else_are_refused(name: str, small: Results) -> None:
    a, b = side_of(small, FACTS), side_of(small, replace(FACTS, **{name: OTHER[name]}))
    with pytest.raises(UserError, match=f"cannot be compared; they differ in {name}"):
        compare(a, b)


def test_other_suites_seeds_memories_and_methods_are_refused(small: Results) -> None:
    it = side_of(small, FACTS)
    for other, why in (
        (replace(small, suite="other"), "suite"),
        (results(seeds=(1,), memories=24), "no seed in common"),
        (results(seeds=(0,), memories=27), "which memories"),
        (results(("none", "else"), (0,), 24), "no method in common"),
    ):
        with pytest.raises(UserError, match=why):
            compare(it, side_of(other, FACTS))
    with pytest.raises(UserError, match=r"no method of the new run named 'wek'.*Did you mean 'weak'"):
        compare(it, it, ["wek"])


def test_a_memory_that_one_run_left_out_is_refused(small: Results) -> None:
    """It could be the one that came back."""
    for role in ("forget", "keep"):
        one = next(r for r in small.records if (r.method, r.role, r.shown) == ("weak", role, False)).memory
        left = [r for r in small.records if (r.method, r.memory) != ("weak", one)]
        it, less = side_of(small, FACTS), side_of(replace(small, records=left), FACTS)
        with pytest.raises(UserError, match=f"weak of seed 0 has no answers about {one} in the new run"):
            compare(it, less)
        assert compare(it, less, ["strong"]).exit == 0


def test_what_else_differs_is_said(small: Results) -> None:
    new = replace(FACTS, methods={"weak": {"lr": 1e-3}}, libraries={"torch": "9"}, commits=("c",))
    seeds = results(("none", "strong"), (0, 1), 24)
    diff = compare(side_of(small, FACTS), side_of(seeds, new))
    said = " ".join(diff.notes)
    assert "methods: weak lr 0.0001 → 0.001" in said
    assert "libraries: torch none → 9" in said
    assert "seeds: 0 → 0, 1" in said
    assert "weak was not compared: only the old run has it" in said
    assert "the readings of none differ" not in said
    assert diff.seeds == (0,)


def test_another_held_model_is_said(small: Results) -> None:
    other = results(seeds=(0,), memories=24, length=lambda m, r, a, d: 63 if m == "none" and a == "paraphrase" else typical(m, r, a, d))
    assert any("readings of none differ" in n for n in compare(side_of(small, FACTS), side_of(other, FACTS)).notes)


@pytest.mark.parametrize("given", ["leak", "leak=", "leak=-1", "leak=nan", "leak=x", "wit=3"])
def test_a_margin_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(UserError, match=r"expected measure=number|no measure named"):
        margins_from([given])


# ---- formats


def test_json_holds_every_row_and_no_nan(old: Side, broken: Side) -> None:
    diff = compare(old, broken)
    found = json.loads(as_json(diff), parse_constant=pytest.fail)
    assert (found["schema"], found["exit"], len(found["rows"]), len(found["changes"])) == (1, 1, len(diff.rows), len(diff.changes))
    assert found["rows"][0]["difference"].keys() >= {"value", "low", "high", "by_seed"}


def test_text_is_narrow_and_limits_the_memories(old: Side, broken: Side) -> None:
    diff = compare(old, broken)
    assert max(map(len, text(diff).splitlines())) <= 100
    assert text(diff).count("came back") == 10 + 1
    assert "--all" in text(diff)
    assert text(diff, None).count("came back") == len([c for c in diff.changes if c.kind == "came back"]) + 1
    assert "Worse: strong leak:black-box, strong tokens:black-box." in text(diff)


def test_github_gets_commands_that_names_cannot_break_out_of(small: Results) -> None:
    name = "a,b::c%\n::set-output"
    back = results(("none", name), (0,), 24, length=lambda m, role, a, d: 64)
    gone = results(("none", name), (0,), 24, length=lambda m, role, a, d: 64 if m == "none" or role == "keep" else 0)
    diff = compare(side_of(gone, FACTS), side_of(back, FACTS))
    lines = workflow_commands(diff)
    assert lines[0].startswith("::error title=palimpsest%3A a%2Cb%3A%3Ac%25%0A%3A%3Aset-output is worse::")
    assert all("\n" not in line for line in lines)
    page = summary(diff)
    assert "| tokens:black-box, tokens |" in page
    assert "\n::set-output" not in page
