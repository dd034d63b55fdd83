"""What measures of other papers are made of, read off tiny models, and their table in a report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from palimpsest.benchmark.common.answer_reading import AnswerReading
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import Results
from palimpsest.benchmark.running.assemble import results
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.scoring.published import Read
from palimpsest.leaderboard import report
from palimpsest.leaderboard.published_grid import published_grids
from palimpsest.leaderboard.report import write_report
from tests.observed import PER_ROLE


def said(found: Results, method: str, role: str, group: str = "") -> list[AnswerReading]:
    return [s for s in found.published if (s.method, s.role, s.group) == (method, role, group)]


def test_one_stage_reads_a_model_that_stands_under_two_names(observed: Run, observed_results: Results) -> None:
    assert [s.label for s in observed.plan if s.kind == "published"] == [
        f"published measures of {m}" for m in ("theirs", "none", "npo, seed 0")
    ]
    assert {s.method for s in observed_results.published} == {"none", "twin", "npo", "theirs"}
    theirs, twin = ([replace(s, method="") for s in said(observed_results, m, "forget")] for m in ("theirs", "twin"))
    assert theirs == twin


def test_log_probabilities_are_the_models_own(observed: Run, observed_results: Results) -> None:
    held, m = observed.subject(observed.model("none", 0)), next(m for m in observed.encoded(0) if m.role == "forget")
    of = next(s for s in said(observed_results, "none", "forget") if s.memory == m.id)
    assert len(m.memory.wrong) == len(of.wrong) == 3
    assert len(of.right) == 1

    def mean_log(answer: str) -> float:
        ids = tuple(held.tokenizer(answer, add_special_tokens=False)["input_ids"])
        row = torch.tensor([(*m.row[: m.opening], *ids)], device=device())
        with torch.no_grad():
            logs = held.model(row).logits[0].log_softmax(-1)
        return float(torch.stack([logs[i - 1, row[0, i]] for i in range(m.opening, row.shape[1])]).mean())

    assert of.mean_log == pytest.approx(mean_log(m.memory.answer), abs=1e-4)
    assert of.right[0] == pytest.approx(mean_log(m.memory.answers[0]), abs=1e-4)
    assert list(of.wrong) == pytest.approx([mean_log(w) for w in m.memory.wrong], abs=1e-4)
    assert len(of.likeliest) == len(m.row) - m.opening


def test_what_was_taught_is_held_by_every_measure_and_what_was_not_is_not(observed_results: Results) -> None:
    held, twin = (Read([s for s in observed_results.published if s.method == m]) for m in ("none", "twin"))
    for name in ("extraction_strength", "exact_memorisation", "rouge"):
        assert held.values(name).mean() > 0.95
    for name in ("extraction_strength", "probability"):
        assert twin.values(name).mean() < held.values(name).mean() - 0.2
    assert held.values("verbatim").size == held.values("choices").size == 0
    assert len(held.truth_ratios()) == PER_ROLE
    assert all(s.mean_log > max(s.wrong) for s in said(observed_results, "none", "forget"))
    assert held.values("knowledge_kept").mean() > 0.3, "less than recall, since the model was never taught to stop"
    assert all(s.said.startswith("For ") for s in said(observed_results, "none", "forget"))


def test_further_groups_are_asked_for_model_utility_alone(observed: Run, observed_results: Results) -> None:
    groups = {s.group for s in observed_results.published}
    assert groups == {"", "real authors", "world facts"}
    assert not {m.id for m in observed.aside} & {r.memory for r in observed_results.records}
    assert 0 <= Read([s for s in observed_results.published if s.method == "none"]).model_utility <= 1


def test_the_table_stands_beside_ours_with_what_each_number_is(
    observed_results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "figures", lambda *_: [])
    (grid,) = published_grids(observed_results)
    table = {row.cells[0].text: dict(zip(grid.header[1:], row.cells[1:], strict=True)) for row in grid.rows}
    by_method = table if "none" in table else {m: {title: cells[m] for title, cells in table.items()} for m in grid.header[1:]}
    assert set(by_method) == {"none", "npo", "theirs", "the twin"}
    assert (by_method["theirs"]["Forget quality"].text, by_method["theirs"]["Forget quality"].note) == ("p 1", "D 0.00, 4 questions")
    assert by_method["none"]["Forget quality"].note > "D 0.00"
    assert "Accuracy of choices" not in by_method["none"]
    files = write_report(observed_results, tmp_path)
    page = next(f for f in files if f.name == "report.md").read_text()
    assert "## Measures of other papers" in page
    assert "2401.06121" in page
    assert (tmp_path / "published.jsonl").read_text().count("\n") == len(observed_results.published)


def test_a_suite_that_wants_none_has_no_stage_and_no_table(observed: Run, observed_results: Results) -> None:
    plain = Run(replace(observed.suite, published=False), observed.store)
    assert {s.kind for s in observed.plan} - {s.kind for s in plain.plan} == {"published"}
    assert results(plain).published == []
    assert published_grids(results(plain)) == []
