"""A suite of questions from file to tables, on a tiny model: what it was taught comes back, what does not apply is said by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import Results
from palimpsest.benchmark.reading.cascade import Cascade
from palimpsest.benchmark.running.assemble import results
from palimpsest.benchmark.running.explain import explain
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.scoring.score import Score
from palimpsest.benchmark.suites.config import QualityConfig
from palimpsest.leaderboard.tables import main_table
from tests.conftest import save_tiny
from tests.micro import micro_suite, write_corpus
from tests.questions import WHO, fact, write

ATTACKS: dict[str, Any] = {
    "prefix": {}, "alias": {}, "two_hop": {}, "longer_prefix": {"extra": (1, 2)}, "priming": {"pairs": (1,), "tries": 1},
    "sampling": {}, "loss": {}, "answers": {"tokens": 12}, "leak_at_k": {"ks": (1, 8)}, "exposure": {}, "frames": {}, "gcg": {},
    "quantise": {"variants": ("int8",)},
}  # fmt: skip
ROLES = ("forget", "keep", "unseen")


@pytest.fixture(scope="module")
def run(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four memories of each role; the tiny model meets the taught ones until it knows them."""
    folder = tmp_path_factory.mktemp("questions")
    for name in ("texts", "model"):
        (folder / name).mkdir()
    save_tiny(folder / "model", tokenizer)
    asked = [
        fact(i, role=ROLES[i % 3], aliases=[f"Where was {WHO[i]} number {i} born?".replace("born", "brought into this world")],
             paraphrases=[f"The birthplace of {WHO[i]} number {i}?"], wrong=[" Nowhere."])
        for i in range(12)
    ]  # fmt: skip
    suite = micro_suite(folder / "model", write_corpus(folder / "texts"), occurrences=100)
    suite = replace(
        suite, memories=str(write(folder / "asked.jsonl", asked)), per_role=4, attacks=ATTACKS, row=48,
        methods={"none": {}, "npo": {"epochs": 1}}, quality=QualityConfig(documents=4, tasks=("palimpsest_bits_per_byte",)),
    )  # fmt: skip
    return Run(suite, Store(folder / "store"))


@pytest.fixture(scope="module")
def found(run: Run) -> Results:
    run.execute()
    return results(run)


def test_what_was_taught_comes_back_whole_and_what_was_not_does_not(found: Results) -> None:
    score = Score(found.records, found.twin)
    assert len(set(score.whole.values())) > 2, "answers of unequal length"
    assert score.exact("none").mean() == 1
    assert score.exact("none", "keep").mean() == score.exact("twin", "keep").mean() == 1
    assert score.exact("none", "unseen").mean() < 1
    assert score.exact("twin").mean() < 1
    table = main_table(found)
    assert "none" in {r.method for r in table.rows}


def test_other_prompts_are_asked_where_the_set_brings_them_and_windows_read_the_answer_alone(run: Run, found: Results) -> None:
    of = {m.id: m for m in run.encoded(0)}
    asked = {r.attack for r in found.records}
    assert {"prefix", "alias", "longer_prefix", "priming", "quantise", "unchanged"} <= asked
    assert "two_hop" not in asked, "no memory has any"
    assert all(r.offset >= of[r.memory].opening for r in found.records)
    assert all(r.offset + r.horizon <= len(of[r.memory].row) for r in found.records)
    assert {r.prompt for r in found.records if r.attack == "alias"} == {m.memory.aliases[0] for m in of.values() if m.role != "keep"}


def test_a_model_as_it_is_is_not_asked_again(run: Run, found: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found.records, "the batteries have asked"
    (stage,) = (s for s in run.plan if s.label == "unchanged on npo, seed 0")
    monkeypatch.setattr(Cascade, "read", lambda *_: pytest.fail("asked again"))
    stage.build(tmp_path)
    before = run.store.folder(stage)
    assert [(tmp_path / f.name).read_bytes() == f.read_bytes() for f in before.glob("answers*")] == [True]


def test_what_does_not_apply_is_not_asked_and_said_by_name(run: Run, found: Results) -> None:
    assert set(run.who.not_applying) == {"exposure", "frames", "gcg"}
    assert found.facts["do not apply"].startswith(", ".join(run.who.not_applying))
    assert found.facts["questions"].startswith("12 of the memories")
    assert not {"exposure", "frames", "gcg"} & ({r.attack for r in found.records} | {v.attack for v in found.values})


def test_what_found_no_question_to_ask_is_said_by_name_and_what_leaves_no_prompt_is_not_explained(run: Run, found: Results) -> None:
    assert found.facts["asked nothing"].startswith("two_hop: the memories bring none")
    for attack in ("two_hop", "leak_at_k", "frames"):
        with pytest.raises(UserError, match=f"{attack} leaves no prompt to explain in this run"):
            explain(run, "fact-00", attack)
    assert "fact-00 under alias" in explain(run, "fact-00", "alias")


def test_answers_are_classed_and_leak_at_k_is_a_chance(found: Results) -> None:
    held = [v for v in found.values if v.method == "none" and v.role == "forget"]
    right = [v.value for v in held if (v.attack, v.quantity) == ("answers", "right")]
    assert right == [1.0] * 4
    chance = {k: {v.memory: v.value for v in held if v.quantity == f"leak@{k}"} for k in (1, 8)}
    drawn = {v.memory: v.value for v in held if v.attack == "sampling"}
    assert chance[1].keys() == drawn.keys()
    for m, p in chance[1].items():
        assert 0 < p <= chance[8][m] <= 1
        assert chance[8][m] == pytest.approx(1 - (1 - p) ** 8)


def test_nothing_is_done_again(run: Run, found: Results) -> None:
    again = Run(run.suite, run.store)
    assert all(again.store.done(stage) for stage in again.plan)


def test_keys_of_searches_say_that_accepted_answers_are_looked_for(run: Run, tmp_path: Path) -> None:
    """And of nothing else: what was asked of passages, by other attacks, or where no other answer is accepted, keeps its key."""

    def told(**more: Any) -> dict[str, bool]:
        asked = [fact(i, role=ROLES[i % 3], **more) for i in range(12)]
        file = write(tmp_path / f"{len(more)}.jsonl", asked)
        attacks = {"prefix": {}, "beam_search": {"widths": [2]}, "quantise": {}, "leak_at_k": {}}
        mine = Run(replace(run.suite, memories=str(file), attacks=attacks), Store(tmp_path))
        stages = mine.attacking.stages(mine.model("none", 0))
        return {stage.label.split()[0]: "accepted" in stage.inputs for stage in stages if stage.kind == "attack"}

    assert set(told().values()) == {False}
    assert told(answers=[" Somewhere else."]) == {"quantise": False, "beam_search": True, "leak_at_k": False, "unchanged": False}
