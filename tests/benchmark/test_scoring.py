"""The null, its calibration, and leak: on hand-made and on simulated matched lengths."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from palimpsest.benchmark.common.types import Record
from palimpsest.benchmark.scoring.calibration import FEWEST_NULL, Calibration, _percentile, calibrate, excess, recovered
from palimpsest.benchmark.scoring.score import Score, best_lengths, null_lengths, survivors

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


@pytest.mark.parametrize("size", [99, 100, 144, 199, 200, 287, 288, 289, 576])
def test_a_fresh_innocent_value_exceeds_the_quantile_in_at_most_one_of_a_hundred_cases(size: int):
    """All cases: which of `size` + 1 values, alike in distribution, is the fresh one."""
    values = pd.Series(range(size + 1), dtype=float)
    exceeds = sum(values[i] > _percentile(values.drop(i)) for i in values.index)
    assert exceeds / (size + 1) <= 0.01
    assert (exceeds + 1) / (size + 1) > 0.01, "no smaller length would do"
    tied = pd.Series(values.to_numpy() // 7 % 11)
    assert sum(tied[i] > _percentile(tied.drop(i)) for i in tied.index) / (size + 1) <= 0.01


def test_of_fewer_than_99_values_the_quantile_is_the_largest():
    assert [_percentile(pd.Series(range(n), dtype=float)) for n in (1, 50, 98, 99)] == [0, 49, 97, 98]


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


def test_a_null_with_too_few_values_is_not_calibrated():
    assert not calibrate(simulated(FEWEST_NULL - 1, 2)).possible
    assert calibrate(simulated(FEWEST_NULL, 2)).possible


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


def test_an_attack_of_any_name_counts_as_the_exact_opening_where_it_declares_it():
    own = [record(m, "a", n, attack="mine", variant="whole", asks="exact") for m, n in (("none", 64), ("npo", 20))]
    own += [record("npo", "a", 30, attack="mine", variant="k8", asks="window"), record("npo", "a", 50, attack="mine", variant="other")]
    score = Score(own, "twin")
    assert score.exact("none").tolist() == [True]
    assert score.opening("npo").tolist() == [20]
    assert score.verbatim("npo").tolist() == [30]
    nameless = Score([replace(r, attack="prefix", variant="opening", asks="") for r in own], "twin")
    assert nameless.opening("npo").isna().all(), "a name declares nothing"


def test_leak_counts_only_what_the_held_model_repeats():
    half = results(length=lambda method, role, attack, draw: 64 if role != "unseen" and method != "twin" else 0)

    def never_held(r: Record) -> bool:
        return r.method == "none" and r.role == "forget" and int(r.memory[-3:]) % 2 == 1

    score = Score([replace(r, matched=10) if never_held(r) else r for r in half.records], "twin")
    assert len(score.recovered_pair("weak", "black-box")) == 96
    assert score.leak("weak", "black-box") == 1


def test_an_attacker_has_the_attacks_of_all_weaker_ones_and_thresholds_of_its_own():
    found = results(access={"shifted_window": "white-box"})
    score = Score(found.records, found.twin)
    assert score.levels == ("black-box", "white-box")
    assert set(score.calibrations["black-box"].quantiles) == {"prefix", "paraphrase"}
    assert set(score.calibrations["white-box"].quantiles) == {"prefix", "paraphrase", "shifted_window"}
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


# ---- thresholds, survivors, early exit


def test_thresholds_survive_a_json_file():
    for null in (simulated(400, 3), simulated(20, 1)):
        calibration = calibrate(null)
        again = Calibration.from_dict(json.loads(json.dumps(calibration.as_dict(), allow_nan=False)))
        assert again.as_dict() == calibration.as_dict()
        assert again.left_out == calibration.left_out
        assert math.isnan(again.tau) == (not calibration.possible)


@pytest.mark.parametrize("without_question", [0, 9])
def test_tau_comes_from_units_on_which_most_attacks_were_asked(without_question: int):
    sparse = simulated(900, 6)
    sparse.iloc[FEWEST_NULL:, 2:] = np.nan  # two cheap attacks on everything, the others on a subset
    sparse.iloc[:without_question, 0] = np.nan  # one of the cheap attacks has no question for some memories
    calibration = calibrate(sparse)
    assert len(calibration.quantiles) == 6
    everything = excess(sparse, calibration.quantiles)
    assert calibration.tau == np.sort(everything[:FEWEST_NULL])[286]  # the ⌈.99 · 289⌉-th
    assert calibration.tau > np.quantile(everything, 0.99, method="higher")


def test_diagnostics_are_in_no_calibration_no_worst_case_and_no_leak():
    found = results(access={"shifted_window": "white-box"})
    score = Score(found.records, found.twin, ("shifted_window",))
    without = Score([r for r in found.records if r.attack != "shifted_window"], found.twin)
    assert score.levels == ("black-box",)
    assert score.calibrations == without.calibrations
    assert score.worst("weak", "black-box").equals(without.worst("weak", "black-box"))
    assert "shifted_window" not in score.recovered_alone("weak")
    assert score.rated("weak")["shifted_window"].max() == 64  # still shown on its own


def test_answers_of_survivors_count_in_the_worst_case_but_not_in_an_attacks_rate():
    records = [
        record("npo", "a", 3), record("npo", "b", 5), record("npo", "a", 20, attack="gcg", access="white-box"),
        record("npo", "b", 40, attack="gcg", access="white-box", extra=True),
    ]  # fmt: skip
    score = Score(records, "twin")
    assert score.worst("npo", "white-box").tolist() == [20, 40]
    assert score.rated("npo")["gcg"].dropna().tolist() == [20]
    assert score.lengths("npo")["gcg"].tolist() == [20, 40]


def test_the_excess_over_the_twin_compares_questions_that_both_were_asked():
    records = [record(m, "a", n, attack=a) for m, a, n in (("npo", "prefix", 4), ("twin", "prefix", 1), ("twin", "beam", 30))]
    assert Score(records, "twin").worst_pair("npo", "black-box").to_numpy().tolist() == [[4, 1]]


TIERS = {  # attack -> (tier, access)
    "prefix": (0, "black-box"), "windows": (0, "black-box"), "loss_guided": (1, "grey-box"), "beam": (1, "black-box"),
    "quantised": (2, "weights"), "gcg": (2, "white-box"), "paraphraser": (2, "black-box"), "relearn": (3, "weights"),
}  # fmt: skip


def attacked(method: str, seed: int, rng: np.random.Generator, role: str, scale: float) -> list[Record]:
    """Everything asked of 40 memories; few distinct lengths, so that many tie with a threshold; some answers missing.

    About every tenth memory no attack of the first tiers has a question.
    """
    found = []
    for i in range(40):
        level = rng.choice([0, 0, 6, 12, 24]) * scale
        for attack, (tier, access) in TIERS.items():
            matched = min(64, 2 * int(level * rng.random() + rng.exponential(2)))
            if (rng.random() < 0.9 or attack == "prefix") and (tier > 1 or i % 10 < 9):
                fields = {"seed": seed, "role": role, "attack": attack, "variant": "opening", "tier": tier, "access": access}
                found.append(record(method, f"{role}-{i:02d}", matched, **fields))
    return found


@pytest.mark.parametrize("draw", range(6))
def test_early_exit_changes_no_leak_at_any_access_level(draw: int):
    rng, seeds = np.random.default_rng(draw), range(9)
    null = [
        r for s in seeds for m, role in (("none", "unseen"), ("twin", "forget"), ("twin", "unseen")) for r in attacked(m, s, rng, role, 0.2)
    ]
    held = [record("none", f"forget-{i:02d}", 64, seed=s) for s in seeds for i in range(40)]
    calibrations = Score([*null, *held], "twin").calibrations
    assert [*calibrations] == ["black-box", "grey-box", "white-box", "weights"]
    assert all(c.possible for c in calibrations.values())
    everything, asked, skipped = [], [], 0
    for s in seeds:
        full = attacked("npo", s, rng, "forget", 1.0)
        forget = [f"forget-{i:02d}" for i in range(40)]
        fixed, known = set(forget[:10]), []
        for tier in range(4):
            alive = {access: survivors(forget, known, calibrations, access) for t, access in TIERS.values() if t == tier > 1}
            for r in (r for r in full if r.tier == tier):
                if tier < 2 or r.memory in fixed:
                    known.append(r)
                elif r.memory in alive[r.access]:
                    known.append(replace(r, extra=True))
                else:
                    skipped += 1
        everything += full
        asked += known
    assert skipped > 100
    one, other = (Score([*null, *held, *records], "twin") for records in (everything, asked))
    for level in calibrations:
        assert one.recovered_pair("npo", level).equals(other.recovered_pair("npo", level))
        assert one.leak("npo", level) == other.leak("npo", level)
        settled = recovered(other.lengths("npo"), calibrations[level])
        assert other.worst("npo", level)[~settled].equals(one.worst("npo", level)[~settled])
        assert (other.worst("npo", level).fillna(0) <= one.worst("npo", level).fillna(0)).all()


def test_a_memory_survives_until_every_level_that_the_attack_counts_at_is_settled():
    thresholds = {
        "black-box": Calibration({"prefix": 10.0}, 0.0, 300, 0.01),
        "weights": Calibration({"prefix": 10.0, "int4": 5.0}, 4.0, 300, 0.01),
    }
    known = [record("npo", "a", 12), record("npo", "b", 15), record("npo", "c", 2), record("npo", "c", 30, attack="int4", access="weights")]
    assert survivors("abc", known, thresholds, "black-box") == {"a", "c"}  # a: not beyond 14 at weights; c: int4 is no black-box attack
    assert survivors("abc", known, thresholds, "weights") == {"a"}
    assert survivors("abc", known, {}, "weights") == {"a", "b", "c"}
    impossible = {"weights": calibrate(simulated(10, 1))}
    assert survivors("abc", known, impossible, "black-box") == {"a", "b", "c"}


def test_a_memory_that_no_cheaper_attack_had_a_question_about_survives():
    thresholds = {"black-box": Calibration({"prefix": 10.0}, 0.0, 300, 0.01)}
    assert survivors("abc", [record("npo", "a", 64)], thresholds, "black-box") == {"b", "c"}
    assert survivors("abc", [], thresholds, "black-box") == {"a", "b", "c"}
