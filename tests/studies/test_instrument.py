"""The study that judges the instrument: labelled models by hand, whose right answers are known; and its fast form as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.studies._coverage import Case, World, covered, resampled, simulated, summary
from palimpsest.benchmark.studies._judging import LEAK, Judged, false_positives, innocent, told
from palimpsest.benchmark.studies._labelled import HOLDS, NEVER, UNLEARNED
from palimpsest.benchmark.studies.pages.instrument import Rows, page
from palimpsest.benchmark.studies.pages.instrument_coverage import coverage_verdicts
from palimpsest.benchmark.studies.pages.instrument_hidden import CLAIM, hidden_knowledge
from palimpsest.leaderboard.attacks import leak_cell
from palimpsest.leaderboard.study_report import StudyFacts, write_study
from palimpsest.leaderboard.study_results import AGREES, CANNOT_TELL, DISAGREES, StudyTable, Verdict
from tests.studies.worlds import small_lab

ACCESS = {"prefix": "black-box", "shifted_window": "black-box", "quantise": "weights"}
SEEDS, MEMORIES = (0, 1, 2), 32


def frame(**changed: Any) -> pd.DataFrame:
    """Three seeds: models that repeat all, models that match by chance, and `npo`, which hides what it holds."""
    rng = np.random.default_rng(0)
    models = [("none", HOLDS), ("noised", HOLDS), ("rounded", HOLDS), ("twin", NEVER), ("other", NEVER), ("npo", UNLEARNED)]
    lines = []
    for seed in SEEDS:
        for model, group in models:
            for role in ("forget", "unseen"):
                for i in range(MEMORIES):
                    holds = group == HOLDS and role == "forget"
                    hidden = model == "npo" and role == "forget" and i % 2 == 0
                    by_chance = lambda: int(min(6, rng.geometric(0.5)))  # noqa: E731
                    line = {
                        "model": model,
                        "group": group,
                        "seed": seed,
                        "parent": "none",
                        "kind": "",
                        "memory": f"{role} {i}",
                        "role": role,
                        "horizon": 64,
                        "opening": 64 if holds else 1,
                        "loss": rng.normal(2.0 * holds + 1.0 * hidden, 0.5),
                        "held_out": 5.0,
                        "min_k": rng.normal(),
                        "sampling": -1.0 if holds else -200.0,
                        "truth_margin": rng.normal(3.0 * holds, 1),
                    }
                    line |= {f"matched {a}": 64 if holds else by_chance() for a in ACCESS}
                    if role == "unseen" and model not in ("none", "twin"):
                        line = {k: v for k, v in line.items() if not k.startswith("matched ")}
                    if role == "forget" and model in ("twin", "npo"):
                        line["matched relearn"] = 40 if hidden else by_chance()
                    lines.append(line)
    out = pd.DataFrame(lines)
    out.loc[out.model == "rounded", "kind"] = "rounded"
    for name, value in changed.items():
        out[name] = value
    return out


@pytest.fixture(scope="module")
def judged() -> Judged:
    return Judged.of(frame(), ACCESS)


def test_what_holds_is_told_from_what_never_did(judged: Judged) -> None:
    found = {t.measure: t for t in told(judged)}
    for name in (LEAK, "leak, weights", "excess, black-box", "exact", "AUC of loss", "sampling"):
        assert found[name].models.value == 1, name
    assert found[LEAK].memories.value > 0.99
    assert 0.2 < found["min_k"].models.value < 0.8  # it knows nothing
    assert found["min_k"].behind_leak.value > 0.2
    assert found[LEAK].by_seed == (1, 1, 1)


def test_leak_of_each_model_is_what_tables_print(judged: Judged) -> None:
    for model in ("none", "noised", "other", "npo"):
        mine = judged.models[LEAK].xs(model, level="model")
        assert float(mine.mean()) == pytest.approx(leak_cell(judged.score, model, "black-box").leak.value)
    assert judged.models[LEAK]["none", 0] == 1
    assert judged.models["PrivLeak (min_k)"]["twin", 0] == 0
    assert judged.models["forget quality (KS D)"]["twin", 1] == 0


def test_a_rounded_model_that_moves_is_seen() -> None:
    rows = frame()
    moved = rows.model.eq("rounded") & rows.role.eq("forget")
    rows.loc[moved, "loss"] = rows.loc[rows.model.eq("none") & rows.role.eq("forget"), "loss"].to_numpy() - 1.0
    found = {t.measure: t for t in told(Judged.of(rows, ACCESS))}
    assert found["loss"].rounded == pytest.approx(1 / (2 - 1 / 3), rel=0.1)  # of three that hold at 2, one is moved by 1
    assert found["exact"].rounded == 0
    assert np.isnan(found["exact"].tuned)


def test_a_leaky_model_that_never_held_is_a_false_positive() -> None:
    rows = frame()
    bad = rows.model.eq("other") & rows.memory.eq("forget 0")
    rows.loc[bad, "matched prefix"] = 30
    found = false_positives(Judged.of(rows, ACCESS))
    assert sum(found["black-box", "other"]) == 3  # one in each seed
    assert sum(found["black-box", "twin"]) == 0


def test_verdicts_hidden_knowledge_and_the_page(tmp_path: Path) -> None:
    simulations = {Case(0.2, 0.0): list(covered(Case(0.2, 0.0), simulated, 5))}
    found = page(Rows(frame(), ACCESS, simulations, draws=2))
    says = {v.claim: v.says for v in found.verdicts}
    assert says["Leak at black-box tells models that hold from models that never did."] == CANNOT_TELL, "of nine and six models"
    assert says["Leak at black-box tells memories that are held from memories that never were."] == CANNOT_TELL, "1, of 96 memories"
    assert says[CLAIM] == CANNOT_TELL, "their loss is a nat higher, and they are of one method"
    tables = {t.title: t.rows for t in found.tables}
    assert tables["Hidden knowledge"] == [
        {
            "method": "npo",
            "memories": 96,
            "recovered by prompts, %": 0.0,
            "hidden, %": 50.0,
            "after relearning, tokens": pytest.approx(21, abs=1),
            "hidden": 48,
            "neither": 48,
            "pairs within seeds": 3 * 16 * 16,
        }
    ]
    seen = tables["Which measure sees hidden knowledge beforehand?"]
    assert [line["measure"] for line in seen if line["AUC"] > 0.8] == ["loss"]
    assert {"made up", "real"} == {line["lengths"] for line in tables["Coverage and false positives"]}
    facts = StudyFacts("instrument", "?", "p", "https://a", "fast", "c", 1.0, "m")
    assert any(f.suffix == ".svg" for f in write_study(found, facts, tmp_path))


def two_methods(npo_hides: int, rmu_hides: int, by_memory: float) -> pd.DataFrame:
    """Methods that hide so many of 32 memories; npo's loss is two nats higher whatever it hides, a hidden memory's by `by_memory`."""
    rng, rows = np.random.default_rng(1), frame()
    parts = [rows[rows.model != "npo"]]
    for name, count in (("npo", npo_hides), ("rmu", rmu_hides)):
        part = rows[rows.model == "npo"].assign(model=name)
        hidden = part.role.eq("forget") & part.memory.isin([f"forget {i}" for i in range(count)])
        part["matched relearn"] = np.where(part.role.eq("forget"), np.where(hidden, 40, 1), np.nan)
        part["loss"] = rng.normal(2.0 * (name == "npo") + by_memory * hidden, 0.5)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def test_what_tells_methods_apart_does_not_see_what_they_hide() -> None:
    """All of one method is hidden and nothing of the other: no pair is left to compare, though over both the loss tells them apart."""
    (_,), (verdict,) = hidden_knowledge(Judged.of(two_methods(MEMORIES, 0, 0.0), ACCESS))
    assert (verdict.says, verdict.claim) == (CANNOT_TELL, CLAIM)
    assert "96 of 192 memories are hidden; no method has" in verdict.measured
    (_, seen), (verdict,) = hidden_knowledge(Judged.of(two_methods(MEMORIES - 4, 4, 0.0), ACCESS))
    loss = next(line for line in seen.rows if line["measure"] == "loss")
    assert loss["across methods"] > 0.85
    assert 0.35 < loss["AUC"] < 0.65
    assert loss["pairs"] == 2 * 3 * 4 * (MEMORIES - 4)
    assert verdict.says == CANNOT_TELL


def test_what_sees_hidden_memories_within_methods_is_found() -> None:
    (_, seen), (verdict,) = hidden_knowledge(Judged.of(two_methods(8, 24, 1.5), ACCESS))
    assert seen.rows[0]["measure"] == "loss"
    assert verdict.says == AGREES
    assert "npo 576, rmu 576" in verdict.measured


def test_a_score_that_misses_is_told() -> None:
    rows = frame()
    rows.loc[rows.group.eq(HOLDS) & rows.model.ne("none"), [f"matched {a}" for a in ACCESS]] = 1
    found = page(Rows(rows, ACCESS, {Case(0.0, 0.0): list(covered(Case(0.0, 0.0), simulated, 2))}, draws=1))
    says = {v.claim: v for v in found.verdicts}
    assert says["Leak at black-box tells models that hold from models that never did."].says == DISAGREES
    assert "exact" in says["No other measure is ahead of leak."].measured


def test_intervals_cover_and_innocence_is_kept_where_worlds_are_as_promised() -> None:
    rows = list(covered(Case(0.5, 0.05), simulated, 25))
    assert 85 <= summary(Case(0.5, 0.05), rows, "made up")["interval holds the truth, %"] <= 100
    assert summary(Case(0.5, 0.05), rows, "made up")["false positives, %"] < 2
    assert summary(Case(0.5, 0.05), rows, "made up")["mean leak, %"] == pytest.approx(50, abs=2)


def test_real_lengths_are_drawn_with_null_and_judged_apart(judged: Judged) -> None:
    real, held = innocent(judged), judged._lengths(judged.frame[(judged.frame.model == "none") & (judged.frame.role == "forget")])
    world = resampled(Case(0.5, 0.0), np.random.default_rng(0), real, held)
    assert len(world.null) == 3 * len(world.mine) == 576
    assert 0.4 < (world.mine["prefix"] == 64).mean() < 0.6
    assert not (world.twin["prefix"] == 64).any()
    assert (world.left == (world.mine["prefix"] == 64)).all()


def test_false_positives_are_those_of_memories_that_no_threshold_was_made_from() -> None:
    """An innocent method whose matches are longer than any of the null and the twin: each of its memories is a false positive."""
    index = pd.MultiIndex.from_product([["m"], [0, 1, 2], ["forget"], range(128)], names=["model", "seed", "role", "memory"])
    short, long = (pd.DataFrame({"a": np.full(len(index), n)}, index) for n in (1.0, 40.0))
    left = np.arange(len(index)) % 4 == 0
    (row,) = covered(Case(0.25, 0.0), lambda *_: World(short, long, short, left), 1)
    assert (row["false_positives"], row["innocent"]) == (288, 288)


def test_worlds_of_two_cases_are_drawn_apart() -> None:
    a, b = (list(covered(Case(0.2, 0.0), simulated, 1, seed=i)) for i in (0, 1))
    assert a != b


def test_false_positives_of_models_have_an_interval_over_seeds() -> None:
    """In one seed of three a quarter of the innocent memories is called: what is one event is not taken for many."""
    rows = frame()
    bad = rows.model.eq("other") & rows.seed.eq(0) & rows.memory.isin([f"forget {i}" for i in range(8)])
    rows.loc[bad, "matched prefix"] = 30
    found = page(Rows(rows, ACCESS, {Case(0.0, 0.0): list(covered(Case(0.0, 0.0), simulated, 2))}, draws=1))
    verdict = next(v for v in found.verdicts if "without twins" in v.claim)
    assert verdict.measured.startswith("8.33 %")
    assert verdict.says == CANNOT_TELL


def test_a_kind_of_model_that_is_often_called_is_not_diluted_by_the_others() -> None:
    """One of ten kinds is called in 3% of its memories or more in every seed; of all together it is fewer than 1%."""
    rows = frame()
    kinds = [rows[rows.model == "other"].assign(model=f"other {i}") for i in range(9)]
    rows = pd.concat([rows, *kinds], ignore_index=True)
    for seed in SEEDS:
        called = rows.model.eq("other 3") & rows.seed.eq(seed) & rows.memory.isin(["forget 0", "forget 1"][: 1 + seed // 2])
        rows.loc[called, "matched prefix"] = 30
    (verdict,) = (v for v in verdicts_of({Case(0.0, 0.0): [world()]}, rows) if "without twins" in v.claim)
    assert verdict.measured.startswith("4.17 %")
    assert "of the worst of 10 kinds of model (other 3); 0.417 %" in verdict.measured


def world(holds: bool = True, false: float = 0.0) -> dict[str, Any]:
    """What is kept of one simulated world, of 100 innocent memories."""
    return {"world": 0, "leak": 0.1, "low": 0.0, "high": 0.2, "holds": holds, "false_positives": false, "innocent": 100}


def verdicts_of(simulations: dict[Case, list[dict[str, Any]]], rows: pd.DataFrame) -> list[Verdict]:
    judged = Judged.of(rows, ACCESS)
    lines = [summary(case, found, "made up") for case, found in simulations.items()]
    return list(coverage_verdicts(StudyTable("Coverage", lines), simulations, judged))


def test_coverage_is_told_of_the_worst_case_not_of_worlds_where_nothing_is_left() -> None:
    covers = [world(holds=i % 10 > 0, false=float(i % 4 == 0)) for i in range(200)]
    always = [world(false=3.0 * (i % 2)) for i in range(1000)]
    found = verdicts_of({Case(0.0, 0.0): always, Case(0.05, 0.0): covers, Case(0.5, 0.0): always[:200]}, frame())
    coverage, false = found[:2]
    assert coverage.measured.startswith("90.0% [84.")
    assert coverage.says == DISAGREES
    assert "(made up lengths, true leak 5%); 95.0% of all 400 together; 100.0% of all 1000 where nothing is left" in coverage.measured
    assert false.measured.startswith("1.5 %")
    assert false.says == DISAGREES
    assert "(true leak 0%, seeds alike)" in false.measured


def test_a_short_target_that_comes_back_whole_raises_no_threshold() -> None:
    """Of texts of ten tokens whole ones are ten tokens in the null, not 64."""
    rows = frame().assign(horizon=10)
    lengths = [f"matched {a}" for a in ACCESS]
    rows[lengths] = rows[lengths].clip(upper=10)
    unseen = rows.role.eq("unseen") & rows.model.isin(["none", "twin"]) & rows.memory.isin([f"unseen {i}" for i in range(4)])
    rows.loc[unseen, ["opening", "matched prefix"]] = 10
    judged = Judged.of(rows, ACCESS)
    assert judged.score.calibrations["black-box"].quantiles["prefix"] == 10
    assert judged.held[judged.memories.model.eq("none")].all()  # ten of ten are whole


def test_without_leak_nothing_is_ahead_of_it() -> None:
    rows = frame()
    found = told(Judged.of(rows[rows.seed == 0], ACCESS))  # too few null values
    assert not any(t.measure.startswith("leak") for t in found)
    assert all(np.isnan(t.behind_leak.value) for t in found)


def test_its_fast_form_from_beginning_to_end(tiny: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = small_lab("instrument", tiny, tmp_path, monkeypatch, worlds=1)
    found = lab.execute()
    lines = {line["model"]: line for line in found.tables[1].rows}
    assert {"none", "twin", "taught by LoRA", "near collapse", "npo"} <= set(lines)
    assert all(line["held-out loss"] > 0 for line in lines.values())
    assert any("288" in note for note in found.notes)
    facts = StudyFacts("instrument", "?", "p", "https://a", "fast", "c", 1.0, "m")
    assert write_study(found, facts, tmp_path / "out")[0].read_text().count("|") > 100
