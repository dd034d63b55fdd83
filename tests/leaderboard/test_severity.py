"""How much comes back: survival against the twin's, its figure, and what tells no two methods apart."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import numpy as np
import pytest

from palimpsest.benchmark.common.types import Results
from palimpsest.benchmark.scoring.score import Score
from palimpsest.leaderboard.dead_weight import dead_weight
from palimpsest.leaderboard.grids import grids
from palimpsest.leaderboard.headline import remarks
from palimpsest.leaderboard.report import escape_markdown, render
from palimpsest.leaderboard.severity import severity, sparkline
from palimpsest.leaderboard.tables import MainTable, main_table

from ..synthetic import record, results

LENGTHS = {"npo": [0, 20, 40, 64], "twin": [0, 20, 3, 3]}


@pytest.fixture(scope="module")
def score() -> Score:
    records = [record(method, f"m{i}", n) for method, lengths in LENGTHS.items() for i, n in enumerate(lengths)]
    return Score(records, "twin")


def test_shares_are_minus_the_twins_and_the_curve_adds_up_to_the_excess(score: Score):
    found = severity(score, "npo", "black-box")
    assert [x.value for x in found.shares] == [0.5, 0.5, 0.25]
    assert all(x.low < x.value < x.high for x in found.shares)
    assert len(found.curve) == 64
    assert (found.curve[2], found.curve[15], found.curve[39], found.curve[40], found.curve[63]) == (0, 0.5, 0.5, 0.25, 0.25)
    excess = np.mean(LENGTHS["npo"]) - np.mean(LENGTHS["twin"])
    assert found.curve.sum() == pytest.approx(excess)


def test_the_curves_of_a_whole_table_add_up_to_its_excess():
    table = main_table(results(memories=24, seeds=(0, 1)))
    for row in table.rows:
        assert row.recovery.severity.curve.sum() == pytest.approx(row.recovery.leaks[0].excess.value)
        shares = [x.value for x in row.recovery.severity.shares]
        assert shares == sorted(shares, reverse=True)


def test_a_model_that_was_not_asked_has_no_severity(score: Score):
    found = severity(score, "other", "black-box")
    assert not any(found.shares)
    assert np.isnan(found.curve).all()
    assert sparkline(found.curve, "") == ""


def test_the_figure_falls_as_the_curve_does():
    svg = sparkline([1.0] * 32 + [0.5] * 16 + [-0.1] * 16, "100% & more")
    heights = [float(y) for y in re.findall(r"V([\d.]+)H", svg)]
    assert heights == [2.0] * 32 + [11.0] * 16 + [20.0] * 16
    assert 'aria-label="100% &amp; more"' in svg


def test_the_page_draws_a_figure_in_every_row_and_texts_have_the_numbers():
    made = results(memories=6, seeds=(0,))
    page = render(made, "html")
    main = page[page.index("<tbody>") : page.index("</tbody>")]
    assert main.count('<svg class="spark"') == 4
    assert main.count("<svg") == 4
    assert page.count("<svg class=") == 4, "nowhere else"
    shown = next(g for g in grids(main_table(made)) if g.key == "main")
    cell = shown.rows[0].cells[shown.header.index("Severity %")]
    assert str(cell) == "100 / 100 / 100"
    assert "100 / 100 / 100" in render(made, "md")
    assert "<svg" not in render(made, "md") + render(made, "latex")


# ---- dead weight


def made(**lengths: dict[str, int]) -> Results:
    """Attack -> memory's number (modulo 4) -> tokens on every method but the twin; forget memories only."""

    def length(method: str, role: str, attack: str, draw: random.Random) -> int:
        return draw.randrange(3)

    whole = results(("none", "a", "b"), seeds=(0, 1, 2), memories=192, length=length)
    forget = [r for r in whole.records if r.role == "forget" and r.method in ("a", "b")]
    changed = [replace(r, matched=lengths[r.attack].get(f"{r.method}{int(r.memory[-3:]) % 4}", 0)) for r in forget]
    held = [replace(r, matched=64) for r in whole.records if r.method == "none" and r.role != "unseen"]
    others = [r for r in whole.records if r.method == "twin" or (r.method == "none" and r.role == "unseen")]
    return replace(whole, records=[*others, *held, *changed])


HALF = {"prefix": {}, "shifted_window": {"a0": 64, "b0": 64, "a1": 40}, "paraphrase": {"b2": 30}}


@pytest.fixture(scope="module")
def half() -> MainTable:
    return main_table(made(**HALF))


def test_an_attack_is_dead_weight_if_it_alone_reads_nowhere_furthest(half: MainTable):
    assert (half.dead_weight.attacks, half.dead_weight.attack_count) == (("prefix",), 3)
    twice = Score(made(**HALF | {"prefix": HALF["paraphrase"]}).records, "twin")
    found = dead_weight(twice, ["none", "a", "b"], ["a", "b"], "black-box")
    assert found.attacks == ("prefix", "paraphrase"), "of two that do the same both are named"


def test_without_an_attack_that_is_dead_weight_no_leak_changes():
    whole = made(**HALF)
    score = Score(whole.records, "twin")
    (idle,) = dead_weight(score, ["none", "a", "b"], ["a", "b"], "black-box").attacks
    assert idle == "prefix"
    for method in ("a", "b"):
        lengths = score.lengths(method)
        limits = {a: score.calibrations["black-box"].threshold(a) for a in lengths}
        recovered = {a: lengths[a] > limits[a] for a in lengths}
        others = recovered["shifted_window"] | recovered["paraphrase"]
        assert (others == (others | recovered[idle])).all()


def test_memories_that_all_methods_lose_or_none_are_counted_and_named(half: MainTable):
    found = half.dead_weight
    assert found.memory_count == 192
    assert {int(m[-3:]) % 4 for _, m in found.always} == {0}
    assert {int(m[-3:]) % 4 for _, m in found.never} == {3}
    assert len(found.always) == len(found.never) == 48
    attacks, lost_by_none, lost_by_all = remarks(half.dead_weight)
    assert (attacks.summary, attacks.names) == ("1 of 3 attacks read nowhere further than all others.", ("prefix",))
    assert lost_by_none.summary == "48 of 192 forget memories are lost by no method."
    assert [name.split(":")[0] for name in lost_by_all.names] == ["seed 0", "seed 1", "seed 2"]


def test_without_thresholds_an_attack_counts_if_it_reads_furthest_and_a_memory_if_it_comes_back_8_tokens_further():
    records = [record(m, memory, n, attack=a) for m in ("none", "a", "b", "twin") for memory, a, n in (
        ("x", "prefix", 9), ("x", "paraphrase", 9), ("y", "prefix", 0), ("y", "paraphrase", 0 if m == "twin" else 8))]  # fmt: skip
    found = dead_weight(Score(records, "twin"), ["a", "b"], ["a", "b"], "black-box")
    assert found.attacks == ("prefix",)
    assert (found.always, found.never) == (((0, "y"),), ((0, "x"),))


def test_one_attack_or_one_method_is_never_dead_weight():
    found = dead_weight(Score([record("a", "x", 0), record("twin", "x", 0)], "twin"), ["a"], ["a"], "black-box")
    assert (found.attacks, found.never, found.always) == ((), (), ())


def test_dead_weight_is_folded_on_the_page_and_told_in_text():
    whole = results(memories=6, seeds=(0,))  # without thresholds
    shown = remarks(main_table(whole).dead_weight)
    assert shown
    page, text = render(whole, "html"), render(whole, "md")
    section = page[page.index("<h2>Dead weight</h2>") :]
    assert section.count("<details><summary>") == len(shown)
    assert all(f"<details><summary>{r.summary}</summary>" in section for r in shown)
    assert all(f"* {r.summary} {escape_markdown('; '.join(r.names))}" in text for r in shown)
