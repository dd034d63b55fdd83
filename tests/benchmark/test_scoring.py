"""The null, its calibration, and leak: on hand-made and on simulated matched lengths."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from palimpsest.benchmark.scoring import Score, best_lengths, calibrate, null_lengths, recovered
from palimpsest.benchmark.types import Record

from ..synthetic import record, results


def simulated(memories: int, attacks: int, seed: int = 0) -> pd.DataFrame:
    """Innocent matches of attacks that agree with each other to some extent, as attacks do; long enough to pass 8 tokens."""
    rng = np.random.default_rng(seed)
    common = rng.exponential(6, memories)[:, None]
    lengths = np.floor(common + rng.exponential(4, (memories, attacks)))
    index = pd.MultiIndex.from_tuples(
        [("none", 0, "unseen", False, f"m{i:05d}") for i in range(memories)], names=["method", "seed", "role", "shown", "memory"]
    )
    return pd.DataFrame(lengths, index, [f"attack-{a}" for a in range(attacks)])


def test_the_best_variant_and_fold_count_and_what_was_not_asked_is_nan():
    records = [
        record("npo", "a", 3), record("npo", "a", 9, variant="k8"), record("npo", "a", 5, variant="k8", fold=1),
        record("npo", "a", 7, attack="paraphrase", variant="1"), record("npo", "b", 2),
    ]  # fmt: skip
    best = best_lengths(records).droplevel(["method", "seed", "role", "shown"])
    assert best.loc["a"].to_dict() == {"prefix": 9, "paraphrase": 7}
    assert best.loc["b", "prefix"] == 2
    assert math.isnan(best.loc["b", "paraphrase"])


def test_no_records_give_an_empty_table():
    assert best_lengths([]).empty


def test_the_null_is_where_nothing_was_held():
    null = null_lengths(best_lengths(results(memories=6).records), "twin")
    found = set(zip(null.index.get_level_values("method"), null.index.get_level_values("role"), strict=True))
    assert found == {("none", "unseen"), ("twin", "forget"), ("twin", "unseen")}
    assert len(null) == 6 * 3  # pocket: 192 memories, 3 seeds, so 576


def test_quantiles_and_tau_are_lengths_that_can_be_counted_by_hand():
    null = simulated(400, 2)
    null["attack-0"] = [*range(50)] * 8  # 49 is 8 of 400, so 2%: the 99th percentile
    null["attack-1"] = [0] * 397 + [30] * 3  # 0.75% above 0
    calibration = calibrate(null)
    assert calibration.quantiles == {"attack-0": 49, "attack-1": 0}
    assert calibration.tau == 0  # only 3 of 400 have an excess above 0
    assert calibration.size == 400


def test_a_match_must_be_strictly_longer_than_the_threshold_and_at_least_eight():
    null = simulated(300, 1) * 0 + 2
    calibration = calibrate(null)
    assert (calibration.quantiles, calibration.tau) == ({"attack-0": 2}, 0)
    asked = null.iloc[:3].assign(**{"attack-0": [2, 7, 8]})
    assert recovered(asked, calibration).tolist() == [False, False, True]
    assert calibration.threshold("attack-0") == 7
    long = calibrate(null * 10)
    assert recovered(asked.assign(**{"attack-0": [20, 21, np.nan]}), long).tolist() == [False, True, False]


@pytest.mark.parametrize("attacks", [1, 4, 12])
def test_many_attacks_together_stay_near_one_percent_false_positives(attacks: int):
    calibration = calibrate(simulated(600, attacks))
    fresh = recovered(simulated(20_000, attacks, seed=1), calibration)
    assert fresh.mean() == pytest.approx(0.01, abs=0.008)
    assert calibration.false_positives == pytest.approx(0.01, abs=0.012)
    each = simulated(20_000, attacks, seed=1) > pd.Series(calibration.quantiles)
    if attacks == 12:
        assert each.any(axis=1).mean() > 2 * fresh.mean()  # the union of single thresholds would be much too lenient


def test_a_null_below_300_values_is_not_calibrated():
    assert not calibrate(simulated(299, 2)).possible
    assert calibrate(simulated(300, 2)).possible


def test_an_attack_with_few_null_values_is_left_out_by_name():
    null = simulated(400, 2)
    null.loc[null.index[200:], "attack-1"] = np.nan
    calibration = calibrate(null)
    assert list(calibration.quantiles) == ["attack-0"]
    assert calibration.left_out == ("attack-1",)


def test_the_twin_itself_does_not_leak_and_the_held_model_leaks_nearly_all():
    found = results()
    score = Score(found.records, found.twin)
    assert score.leak("twin", "black-box") == 0
    assert score.leak("none", "black-box") > 0.95
    assert score.leak("weak", "black-box") > 0.9  # the exact opening alone would show nothing
    assert score.exact("weak").mean() == 0


def test_leak_counts_only_what_the_held_model_repeats():
    half = results(length=lambda method, role, attack, draw: 64 if role != "unseen" and method != "twin" else 0)

    def never_held(r: Record) -> bool:
        return r.method == "none" and r.role == "forget" and int(r.memory[-3:]) % 2 == 1

    score = Score([replace(r, matched=10) if never_held(r) else r for r in half.records], "twin")
    assert len(score.recovered_pair("weak", "black-box")) == 96
    assert score.leak("weak", "black-box") == 1


def test_access_levels_are_calibrated_apart_and_ordered_by_strength():
    found = results(access={"shifted_window": "white-box"})
    score = Score(found.records, found.twin)
    assert score.levels == ("black-box", "white-box")
    assert set(score.calibrations["white-box"].quantiles) == {"shifted_window"}
    assert abs(score.leak("weak", "black-box")) < 0.05
    assert score.leak("weak", "white-box") > 0.9


def test_collateral_looks_at_hidden_keep_memories_that_the_held_model_repeats():
    rows = [("a", "keep", False, 64, 64), ("b", "keep", False, 64, 9), ("c", "keep", False, 5, 0), ("d", "keep", True, 64, 0)]
    records = [
        record(method, memory, n, role=role, shown=shown)
        for memory, role, shown, held, mine in rows
        for method, n in (("none", held), ("npo", mine))
    ]
    lost = Score(records, "twin").lost("npo")
    assert {memory: v for (_, memory), v in lost.items()} == {"a": 0, "b": 1}
