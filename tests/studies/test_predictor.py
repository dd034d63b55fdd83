"""The study of the predictor: what can be learnt is learnt, what cannot is not, and its fast form as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.studies._predicting import (
    Sequences,
    alignment,
    by_entropy,
    calibration,
    judged,
    logistic,
    split,
    trained,
)
from palimpsest.benchmark.studies.pages.predictor import ahead_of_own_majority, page
from palimpsest.leaderboard.study_report import StudyFacts, write_study
from palimpsest.leaderboard.study_results import AGREES, CANNOT_TELL, DISAGREES
from tests.studies.worlds import small_lab


def made_up(count: int, seed: int, planted: bool = True) -> Sequences:
    """Of 8 tokens; a hidden direction of the states tells which are memorised, entropy tells a little."""
    rng = np.random.default_rng(seed)
    labels = rng.random((count, 8)) < 0.5
    states = rng.normal(0, 0.5, (count, 8, 6)).astype(np.float32)
    if planted:
        states[..., 2] += 2 * labels - 1
    entropies = (rng.normal(2, 1, (count, 8)) - labels).astype(np.float32)
    return Sequences(states, entropies, labels, np.array([f"m{i}" for i in range(count)]))


def test_what_is_planted_is_found_and_entropy_tells_less() -> None:
    train, choose, test = made_up(160, 0), made_up(40, 1), made_up(80, 2)
    mine = judged(trained(train, choose, 0, epochs=12, width=16, layers=1).probability(test), test.labels)
    entropy = judged(by_entropy(logistic(train), test), test.labels)
    assert mine["token_accuracy"] > 0.95
    assert 0.6 < entropy["token_accuracy"] < 0.75  # by hand: Φ(.5) = .69
    assert mine["brier"] < entropy["brier"]


def test_where_nothing_is_to_be_learnt_nothing_is() -> None:
    train, choose, test = (made_up(n, s, planted=False) for n, s in ((100, 3), (40, 4), (80, 5)))
    flat = [Sequences(s.states, np.zeros_like(s.entropies), s.labels, s.memories) for s in (train, choose, test)]
    found = judged(trained(flat[0], flat[1], 0, epochs=3, width=16, layers=1).probability(flat[2]), test.labels)
    assert found["token_accuracy"] == pytest.approx(0.5, abs=0.06)


def test_the_same_seed_trains_the_same() -> None:
    train, choose, test = made_up(20, 0), made_up(10, 1), made_up(10, 2)
    first, again = (trained(train, choose, 7, epochs=2, width=16, layers=1).probability(test) for _ in range(2))
    assert np.array_equal(first, again)


def test_logistic_regression_finds_what_it_was_made_of() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (500, 8)).astype(np.float32)
    labels = rng.random(x.shape) < 1 / (1 + np.exp(-(0.5 - 2 * x)))
    w = logistic(Sequences(np.zeros((500, 8, 1)), x, labels, np.array([""] * 500)))
    assert w == pytest.approx([0.5, -2], abs=0.15)


def test_accuracy_and_calibration_by_hand() -> None:
    p, labels = np.array([[0.9, 0.1], [0.9, 0.9]]), np.array([[True, False], [True, False]])
    found = judged(p, labels)
    assert (found["token_accuracy"], found["sequence_accuracy"]) == (0.75, 0.5)
    assert found["brier"] == pytest.approx((3 * 0.01 + 0.81) / 4)
    assert calibration(p, labels)[-1] == {"bin": 9, "said": pytest.approx(0.9), "true": pytest.approx(2 / 3), "tokens": 3}
    assert found["calibration_error"] == pytest.approx((1 * 0.1 + 3 * (0.9 - 2 / 3)) / 4)


def test_states_of_another_size_are_taken_over_by_a_linear_map() -> None:
    rng = np.random.default_rng(0)
    theirs, turn = rng.normal(size=(400, 4)), rng.normal(size=(4, 7))
    matrix = alignment(theirs, theirs @ turn + 3, ridge=1e-9)
    s = Sequences(theirs[None], np.zeros((1, 400)), np.zeros((1, 400), bool), np.array(["m"]))
    assert s.moved(matrix).states[0] == pytest.approx(theirs @ turn + 3, abs=1e-4)


def test_memories_are_on_one_side_only() -> None:
    names = [f"m{i}" for i in range(20)]
    parts = split(names, 1)
    assert [len(p) for p in parts] == [12, 4, 4]
    assert sorted(n for p in parts for n in p) == sorted(names)
    assert parts != split(names, 2)


def accuracies(transformer: float) -> pd.DataFrame:
    lines: list[dict[str, Any]] = []
    for seed in (0, 1, 2):
        for length in (16, 64):
            for where in ("the held model", "unlearned by npo"):
                for name, value in (("Transformer", transformer + 0.02 * (length == 64)), ("entropy alone", 0.75), ("majority", 0.7)):
                    value += (0.004 + 0.002 * (length == 16)) * seed * (name == "Transformer")
                    cell = {"seed": seed, "length": length, "where": where, "predictor": name}
                    row = {
                        "token_accuracy": value,
                        "sequence_accuracy": value - (0.01 + 1e-4 * seed) * length,
                        "memorised": 0.3,
                        "brier": 0.1,
                    }
                    lines.append({"row": "accuracy", **cell, **row, "calibration_error": 0.02})
                    lines.append({"row": "bin", **cell, "bin": 3, "said": 0.35, "true": 0.3, "tokens": 10})
    return pd.DataFrame(lines)


def test_verdicts_are_beside_the_baselines() -> None:
    says = {v.claim: v.says for v in page(accuracies(0.9), (16, 64)).verdicts}
    assert says["It beats the majority on tokens, at length 16."] == AGREES
    assert says["It beats entropy alone on tokens, at length 64."] == AGREES
    assert says["Whole continuations are harder at 64 than at 16 tokens."] == AGREES
    assert says["It is ahead of the majority on tokens of a model it was not trained on: unlearned by npo."] == AGREES
    poor = {v.claim: v.says for v in page(accuracies(0.6), (16, 64)).verdicts}
    assert poor["It beats the majority on tokens, at length 16."] == DISAGREES
    even = {v.claim: v.says for v in page(accuracies(0.696), (16, 64)).verdicts}
    assert even["It beats the majority on tokens, at length 16."] == CANNOT_TELL


def test_on_another_model_it_must_beat_the_commoner_label_there() -> None:
    """The unlearned model says 5% from memory: who always says no is right about 95%, ahead of a predictor that is right about 92%."""
    rows = accuracies(0.9)
    rows.loc[rows["where"] != "the held model", "memorised"] = 0.05
    found = ahead_of_own_majority(rows, 64, "unlearned by npo")
    assert found.by_seed == pytest.approx((-3, -2.6, -2.2))
    says = {v.claim: v.says for v in page(rows, (16, 64)).verdicts}
    assert says["It is ahead of the majority on tokens of a model it was not trained on: unlearned by npo."] == DISAGREES
    assert says["It beats the majority on tokens, at length 64."] == AGREES


def test_of_one_seed_no_interval_is_promised() -> None:
    rows = accuracies(0.9)
    several, one = (page(r, (16, 64)) for r in (rows, rows[rows.seed == 0]))
    assert "with 95% intervals" in several.tables[0].caption
    assert {"token: from", "whole: to"} <= set(several.tables[0].columns)
    for words in (one.tables[0].caption, one.figures[1].caption):
        assert "one seed, so without intervals" in words
        assert "95%" not in words
    assert not [c for c in one.tables[0].columns if "from" in c or " to" in c]
    assert "no interval can be given" in one.notes[-1]
    assert {v.says for v in one.verdicts} == {CANNOT_TELL}


def test_its_fast_form_from_beginning_to_end(tiny: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = small_lab("predictor", tiny, tmp_path, monkeypatch, other=str(tiny.folder), per_role=2)
    found = lab.execute()
    lines = {(x["tokens"], x["of"].split()[0], x["predictor"]) for x in found.tables[0].rows}
    assert {(n, w, p) for n in (16, 64) for w in ("the", "unlearned", "another") for p in ("Transformer", "majority")} <= lines
    facts = StudyFacts("predictor", "?", "p", "https://a", "fast", "c", 1.0, "m")
    assert write_study(found, facts, tmp_path / "out")[0].is_file()
