"""Questions in scores: a whole answer is recovered however short, lengths are in 64ths of it, and guessing is measured on the null."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from palimpsest.benchmark.common.types import Record
from palimpsest.benchmark.scoring.calibration import calibrate, each_recovered, recovered
from palimpsest.benchmark.scoring.score import Score, survivors, whole_answers

from ..synthetic import record, results

SHORT, LONG = 2, 40  # tokens of the answers


def index(method: str, memories: list[str]) -> pd.MultiIndex:
    names = ["method", "seed", "role", "shown", "memory"]
    return pd.MultiIndex.from_tuples([(method, 0, "unseen", False, m) for m in memories], names=names)


def asked(method: str, memory: str, matched: int, horizon: int, role: str = "forget", **more: object) -> list[Record]:
    """After the exact opening, and the same again by another attack."""
    told: dict = {"horizon": horizon, "role": role} | more
    return [record(method, memory, matched, **told), record(method, memory, matched, attack="paraphrase", variant="1", **told)]


def case(guessed: int) -> Score:
    """300 unseen questions, every second with a short answer, of which so many are guessed whole; three to forget, on three models."""
    size = [SHORT if i % 2 else LONG for i in range(300)]
    records = [r for i, n in enumerate(size) for r in asked("none", f"u{i}", n if n == SHORT and i < 2 * guessed else 1, n, "unseen")]
    for method, lengths in {"none": (SHORT, LONG, SHORT), "npo": (SHORT, 12, 1), "twin": (0, 2, 1)}.items():
        for name, n, of in zip(("a", "b", "c"), lengths, (SHORT, LONG, SHORT), strict=True):
            records += asked(method, name, n, of)
    return Score(records, "twin")


def test_the_size_of_an_answer_is_told_by_what_the_exact_opening_asks_for() -> None:
    windows = [record("none", "a", 3, variant="k8", horizon=9), record("none", "b", 64)]
    assert whole_answers([*asked("none", "q", 1, 3), *windows]) == {"q": 3}


def test_a_short_answer_is_recovered_when_it_is_whole_and_a_long_one_beyond_the_threshold() -> None:
    score = case(guessed=0)
    pair = score.recovered_pair("npo", "black-box")
    assert pair["mine"].droplevel("seed").to_dict() == {"a": 1, "b": 1, "c": 0}
    assert pair["twin"].sum() == 0
    assert score.leak("npo", "black-box") == pytest.approx(2 / 3)
    assert score.recovered_alone("npo").droplevel("seed").to_dict() == {
        "prefix": {"a": 1, "b": 1, "c": 0},
        "paraphrase": {"a": 1, "b": 1, "c": 0},
    }


def test_lengths_are_in_64ths_of_the_answer_so_that_64_is_the_whole() -> None:
    score = case(guessed=0)
    assert score.opening("npo").droplevel("seed").to_dict() == {"a": 64, "b": pytest.approx(64 * 12 / LONG), "c": 32}
    assert score.exact("npo").droplevel("seed").to_dict() == {"a": True, "b": False, "c": False}
    assert score.exact("none").all()
    assert score.worst("npo", "black-box").droplevel("seed")["b"] == pytest.approx(64 * 12 / LONG)
    assert score.rated("npo")["paraphrase"].droplevel("seed")["c"] == 32
    assert score.with_excess().query("method == 'npo' and memory == 'b'").matched.tolist() == [12, 12], "records stay in tokens"


def test_how_often_an_answer_is_guessed_is_the_measured_share_of_false_positives() -> None:
    assert case(guessed=0).calibrations["black-box"].false_positives == 0
    often = case(guessed=30).calibrations["black-box"]
    assert often.false_positives == pytest.approx(30 / 303), "300 unseen, and three on the twin"
    assert often.threshold("prefix") == 7, "a guessed answer of two tokens raises no length that is asked of long ones"
    assert case(guessed=30).leak("npo", "black-box") == pytest.approx(2 / 3)


def test_what_the_twin_guesses_too_is_no_leak() -> None:
    twin = asked("twin", "a", SHORT, SHORT)
    score = Score([*(r for r in case(0).records if (r.method, r.memory) != ("twin", "a")), *twin], "twin")
    assert score.leak("npo", "black-box") == pytest.approx(1 / 3)


def test_keep_memories_are_kept_whole_or_lost() -> None:
    more = [r for m, n in (("none", 3), ("npo", 2)) for r in asked(m, "k", n, 3, "keep")]
    score = Score([*case(0).records, *more], "twin")
    assert score.kept("none").all()
    assert not score.kept("npo").any()
    assert score.lost("npo").tolist() == [1]


def test_a_whole_answer_settles_a_memory() -> None:
    score = case(guessed=0)
    mine = [r for r in score.records if r.method == "npo"]
    assert survivors(["a", "b", "c", "d"], mine, score.calibrations, "black-box") == {"c", "d"}


def test_without_answers_nothing_is_scaled_and_thresholds_are_what_they_were() -> None:
    found = results()
    score = Score(found.records, found.twin)
    assert score.whole == {}
    lengths = score.lengths("weak")
    assert lengths.equals(score._tokens("best", "weak"))
    null = pd.DataFrame({"a": np.arange(300.0) % 20}, index("none", [f"m{i}" for i in range(300)]))
    calibration = calibrate(null)
    assert calibrate(null, {}) == calibration
    assert recovered(null + 15, calibration).sum() == (null["a"] + 15 > calibration.threshold("a")).sum()
    assert each_recovered(null + 15, {"a": calibration})["a"].sum() == (null["a"] + 15 > calibration.threshold("a")).sum()
