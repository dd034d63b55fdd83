"""Whether two runs rank their methods alike."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.leaderboard.agreement import agreement, main
from palimpsest.leaderboard.side import Side, side_of, write_baseline
from tests.leaderboard.test_diff import FACTS
from tests.synthetic import results

METHODS = ("none", "a", "b", "c", "d", "retrain")


def run(lengths: dict[str, int], *, seeds: tuple[int, ...] = (0, 1), memories: int = 24, noise: int = 2, access: str = "black-box") -> Side:
    """Each method's best match is its number of tokens and a little more, the twin's is 2."""

    def length(method: str, role: str, attack: str, draw: random.Random) -> int:
        return lengths.get(method, 2) + (draw.randrange(noise) if attack == "shifted_window" else 0)

    return side_of(results(METHODS, seeds, memories, length, access={"shifted_window": access}), FACTS)


def test_the_same_ranks_agree_and_turned_ones_do_not() -> None:
    mine = run({"a": 10, "b": 20, "c": 30, "d": 40})
    alike = agreement(mine, run({"a": 3, "b": 5, "c": 50, "d": 60}))
    assert alike.correlation.value == pytest.approx(1)
    assert list(alike.values.index) == ["a", "b", "c", "d"], "none, retrain and the twin are no methods"
    assert alike.values["first"].tolist() == pytest.approx([8, 18, 28, 38], abs=1)
    turned = agreement(mine, run({"a": 60, "b": 50, "c": 5, "d": 3})).correlation
    assert turned.value == pytest.approx(-1)
    mixed = agreement(mine, run({"a": 20, "b": 10, "c": 30, "d": 40})).correlation
    assert mixed.value == pytest.approx(0.8)


def test_ranks_that_a_few_memories_decide_have_a_wide_interval() -> None:
    found = agreement(run({"a": 10, "b": 11, "c": 12, "d": 13}, noise=40), run({"a": 10, "b": 11, "c": 12, "d": 13}, noise=40))
    assert found.correlation.count == 16
    other = agreement(run({"a": 10, "b": 20, "c": 30, "d": 40}), run({"a": 10, "b": 11, "c": 12, "d": 13}, noise=40)).correlation
    assert other.high - other.low > 0.5
    assert -1 <= other.low < other.high <= 1


def test_attacks_beyond_black_box_do_not_count() -> None:
    found = agreement(run({"a": 10, "b": 20, "c": 30}, access="weights"), run({"a": 10, "b": 20, "c": 30}))
    assert "shifted_window" not in found.attacks
    assert "prefix" in found.attacks


def test_an_attack_that_one_method_was_not_asked_is_not_held_against_its_twin() -> None:
    """Where only survivors are asked: the twin's match by an attack that the method was spared would make it look more forgetful."""
    plain = run({"a": 10, "b": 20, "c": 30, "d": 40}, noise=1)
    lengths = plain.lengths.copy()
    lengths.loc["b", "shifted_window"] = math.nan
    lengths.loc[plain.twin, "shifted_window"] = 9
    found = agreement(replace(plain, lengths=lengths), replace(plain, lengths=lengths)).values["first"]
    assert found.to_dict() == {"a": 1, "b": 18, "c": 21, "d": 31}, "b beyond the twin's 2 by prefix, the others beyond its 9"


def test_what_collapsed_in_one_run_is_left_out_by_name() -> None:
    """A broken model says nothing, which is no forgetting; tables do not rank it either."""
    mine = run({"a": 10, "b": 20, "c": 30, "d": 2})
    quality = {at: replace(q, value=1.3 * mine.quality[mine.twin, at[1]].value) if at[0] == "d" else q for at, q in mine.quality.items()}
    found = agreement(mine, replace(mine, quality=quality))
    assert found.collapsed == ("d",)
    assert list(found.values.index) == ["a", "b", "c"]
    assert (found.correlation.value, found.all.value) == (pytest.approx(1), pytest.approx(1)), "broken alike in both, it changes no order"
    helped = agreement(replace(mine, quality=quality), run({"a": 10, "b": 20, "c": 30, "d": 60}))
    assert (helped.correlation.value, helped.all.value) == (pytest.approx(1), pytest.approx(-0.2)), "first in one, last in the other"
    plain = agreement(mine, mine)
    assert plain.collapsed == ()
    assert plain.all == plain.correlation


def test_runs_without_a_twin_or_without_an_attack_that_counts_are_refused() -> None:
    mine = run({"a": 10, "b": 20, "c": 30})
    with pytest.raises(UserError, match="has no retrained twin"):
        agreement(replace(mine, twin=""), mine)
    with pytest.raises(UserError, match="0 black-box attacks in common"):
        agreement(replace(mine, levels=dict.fromkeys(mine.levels, "weights")), mine)


def test_other_memories_and_too_few_methods_are_refused() -> None:
    mine = run({"a": 10, "b": 20})
    with pytest.raises(UserError, match=r"read other memories \(16 and 20\)"):
        agreement(mine, run({"a": 10, "b": 20}, memories=30))
    with pytest.raises(UserError, match="expected 3 methods"):
        agreement(side_of(results(("none", "a", "b"), (0,), 24), FACTS), mine)


def test_the_command_prints_both_columns_and_the_correlation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / f"{k}.json" for k in "ab"]
    for k, file in enumerate(files):
        write_baseline(run({"a": 10, "b": 20 + k, "c": 30}), file)
    main([str(f) for f in files])
    said = capsys.readouterr().out
    assert "Spearman's rank correlation over 4 methods: " in said
    assert "first" in said
    with pytest.raises(SystemExit, match="Usage"):
        main([])
    with pytest.raises(SystemExit, match="Error"):
        main([str(tmp_path / "nothing"), str(files[0])])
