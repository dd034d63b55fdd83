"""The shipped suites that inject nothing, from the command line to the report: on tiny models, and stand-ins in the sets' own formats."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.common.answer_reading import MEMBERS, AnswerReading
from palimpsest.benchmark.common.types import EncodedMemory, Results
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.scoring.published import Read
from palimpsest.benchmark.scoring.score import Score
from palimpsest.benchmark.suites.config import load_suite
from palimpsest.benchmark.texts.memories import encode_all, load_memories
from palimpsest.leaderboard import report
from palimpsest.leaderboard.runs import read_report
from palimpsest.leaderboard.tables import MethodRow, main_table
from tests.command import Command
from tests.micro import made_up
from tests.observed import STANDINS, save_models

Suites = Callable[..., "Reported"]
NO_NULL = "No retrained model was given. Nothing here is never seen, so there is no null and there are no thresholds"
# Of a stand-in whose retain text is too short to be a corpus: where it stands, and a further row of it.
RETAIN: dict[str, tuple[str, Callable[[int, list[str]], dict[str, str]]]] = {
    "wmdp": ("bio-retain-corpus/train.json", lambda _, said: {"text": ". ".join(said)}),
    "lume": ("retain.jsonl", lambda i, said: {"id": f"made-up-{i}sc1", "input": said[0], "output": said[1], "task": "Task3"}),
}


@dataclass(frozen=True)
class Reported:
    """The report of a suite that was run: as it was read back, its page, and what its models said for other papers' measures."""

    found: Results
    page: str
    said: list[AnswerReading]

    @property
    def rows(self) -> dict[str, MethodRow]:
        return {r.method: r for r in main_table(self.found).rows}

    def read(self, method: str) -> Read:
        return Read([s for s in self.said if s.method == method])

    def mean(self, method: str, attack: str, quantity: str) -> float:
        """Of a number about forget memories."""
        return next(n.mean.value for n in self.rows[method].further.numbers if (n.attack, n.quantity) == (attack, quantity))


@pytest.fixture
def run_suite(palimpsest: Command, monkeypatch: pytest.MonkeyPatch) -> Suites:
    """Runs a shipped suite with some fields, on few documents and in one precision; no figures are drawn."""
    monkeypatch.setattr(report, "figures", lambda *_: [])

    def run(name: str, store: Path, *fields: str) -> Reported:
        code, _, err = palimpsest("run", f"suite={name}", *fields, "quality.documents=4", "precision=fp32", "--store", str(store))
        assert code == 0, err
        folder = Path("palimpsest-report") / name
        said = [AnswerReading(**json.loads(line)) for line in (folder / "published.jsonl").read_text().splitlines()]
        return Reported(read_report(folder)[0], (folder / "report.md").read_text(), said)

    return run


def copied(name: str, folder: Path) -> str:
    """A copy of a stand-in with more retain text, as a suite names it."""
    file, row = RETAIN[name]
    shutil.copytree(STANDINS / name, folder / name)
    with (folder / name / file).open("a") as out:
        out.writelines(json.dumps(row(i, sentences)) + "\n" for i, sentences in enumerate(made_up(500)))
    return f"{name}:{folder / name}"


def to_the_end(memories: Sequence[EncodedMemory], tokenizer: Any) -> list[EncodedMemory]:
    """What is taught to a model that is to say an answer and no more."""
    return [replace(m, row=(*m.row, tokenizer.eos_token_id)) for m in memories]


def with_another_letter(m: EncodedMemory, tokenizer: Any) -> EncodedMemory:
    return replace(m, row=(*m.row[: m.opening], *tokenizer(m.memory.wrong[0], add_special_tokens=False)["input_ids"]))


def assert_that_the_memories_came_back_from_the_held_model_alone(told: Reported, asked: Sequence[EncodedMemory], other: str) -> None:
    """Every memory was asked of both models; the held one gives back all that is to be forgotten, the other none, by every count."""
    found, rows = told.found, told.rows
    assert list(rows) == ["none", other]
    assert {(r.method, r.role, r.memory) for r in found.records if r.attack == "prefix"} == {
        (method, m.role, m.id) for method in rows for m in asked
    }
    score = Score(found.records, found.twin, found.diagnostics)
    assert (found.twin, set(score.levels)) == ("", {"black-box", "weights"})
    assert not any(c.size or c.possible for c in score.calibrations.values())
    for method, share in (("none", 1), (other, 0)):
        assert rows[method].recovery.exact.value == score.exact(method).mean() == share
        assert not rows[method].recovery.leaks[0].leak, "no leak without a threshold"
        assert told.mean(method, "answers", "right") == share
        assert told.mean(method, "answers", "wrong") == 1 - share
        assert told.read(method).values("extraction_strength").mean() == share
    assert rows["none"].recovery.leaks[0].excess.value == rows["none"].recovery.worst_length.value == 64
    assert math.isfinite(rows[other].utility.damage.value), "bits per byte of the set's own retain text"


def assert_that_the_page_says_what_is_missing(told: Reported, title: str) -> None:
    assert NO_NULL in told.page
    assert title in told.page
    assert f"* corpus: set:{told.found.suite}:" in told.page
    assert "Excess 64ths" in told.page
    for missing in ("Leak %", "What counts as recovered", "Can it be told that they were there?", "What each attack adds", "the twin |"):
        assert missing not in told.page


def test_wmdp_counts_letters_and_says_that_it_has_no_null(run_suite: Suites, tokenizer: Any, tmp_path: Path) -> None:
    given, shipped = copied("wmdp", tmp_path), load_suite("wmdp")
    asked = encode_all(load_memories(given), tokenizer, shipped.row, 0, shipped.per_role)
    others = [with_another_letter(m, tokenizer) for m in asked]
    save_models(tmp_path, tokenizer, {"held": to_the_end(asked, tokenizer), "rmu": to_the_end(others, tokenizer)})
    models = (f"held={tmp_path / 'held'}", f"given.theirs_rmu={tmp_path / 'rmu'}")
    told = run_suite("wmdp", tmp_path / "store", *models, f"memories={given}", f"corpus.path={given}")

    assert [(m.memory.kind, m.role) for m in asked] == [("choice", "forget")] * 4
    assert_that_the_memories_came_back_from_the_held_model_alone(told, asked, "theirs_rmu")
    assert_that_the_page_says_what_is_missing(told, "Accuracy of choices")
    assert [told.read(m).values("choices").tolist() for m in told.rows] == [[1] * 4, [0] * 4]
    assert {r.attack for r in told.found.records} == {"prefix", "formatting", "quantise", "unchanged"}
    assert all(r.horizon == 1 for r in told.found.records), "the letter alone is the answer"
    assert not any(row.utility.kept or row.utility.collateral for row in told.rows.values()), "nothing is kept"
    assert "* do not apply" not in told.page
    assert "licence MIT (unchecked)" in told.page


def test_lume_asks_all_its_tasks_and_names_what_needs_a_retrained_model(run_suite: Suites, tokenizer: Any, tmp_path: Path) -> None:
    given, each = copied("lume", tmp_path), 6
    asked = encode_all(load_memories(given), tokenizer, load_suite("lume").row, 0, each)
    kept = [m for m in asked if m.role == "keep"]
    save_models(tmp_path, tokenizer, {"held": to_the_end(asked, tokenizer), "other": to_the_end(kept, tokenizer)}, steps=120)
    models = (f"held={tmp_path / 'held'}", f"given.theirs={tmp_path / 'other'}")
    told = run_suite("lume", tmp_path / "store", *models, f"memories={given}", f"corpus.path={given}", f"per_role={each}")

    assert {(m.memory.domain, m.role) for m in asked} == {(f"Task{i}", role) for i in (1, 2, 3) for role in ("forget", "keep")}
    assert len(asked) == 2 * each
    assert_that_the_memories_came_back_from_the_held_model_alone(told, asked, "theirs")
    assert_that_the_page_says_what_is_missing(told, "Knowledge memorisation")
    assert "* do not apply: reference, patching: not asked" in told.page
    assert {v.attack for v in told.found.values} >= {"loss", "zlib_ratio", "min_k", "min_k_plus_plus", "sampling", "leak_at_k"}
    assert {r.attack for r in told.found.records} >= {"prefix", "longer_prefix", "formatting", "priming", "quantise", "relearn"}
    assert [told.rows[m].utility.kept.value for m in told.rows] == [1, 1]
    assert [told.read(m).values("knowledge_kept").mean() for m in told.rows] == [1, 1]
    assert told.read("none").values("knowledge").mean() == 1 > told.read("theirs").values("knowledge").mean()
    assert [told.rows[m].further.extraction[0].share.value for m in told.rows] == [1, 0]


def test_tofu_runs_on_stand_ins(run_suite: Suites, observed: Run) -> None:
    s = observed.suite
    models = (f"held={s.held}", f"retrained={s.retrained}", "given=null", f"given.theirs={s.given['theirs']}")
    texts = (f"memories={s.memories}", "corpus.source=text", f"corpus.path={s.corpus.path}")
    told = run_suite("tofu", observed.store.root, *models, *texts, f"per_role={s.per_role}", f"row={s.row}", "attack=prefix")
    assert "## Measures of other papers" in told.page
    assert "theirs" in told.rows


def test_muse_runs_on_stand_ins_and_reads_the_members_of_its_own_privleak(run_suite: Suites, observed: Run, tmp_path: Path) -> None:
    s = observed.suite
    models = (f"held={s.held}", f"retrained={s.retrained}")
    texts = (f"memories=muse:{STANDINS / 'muse'}", "corpus.source=text", f"corpus.path={s.corpus.path}")
    told = run_suite("muse", tmp_path, *models, *texts, "per_role=2", "row=256", "attack=prefix", "excerpts=1")
    assert "Verbatim memorisation" in told.page
    assert "licence CC-BY-4.0 (unchecked" in told.page
    said = [s for s in told.said if s.method == "none"]
    assert {(x.role, x.kind) for x in said if not x.group} >= {("forget", "passage"), ("unseen", "passage")}
    assert sum(x.group == MEMBERS for x in said) == 3
