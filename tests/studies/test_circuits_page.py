"""Where memorised texts diverge, and what the page of the study `circuits` says of its rows."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palimpsest.benchmark.studies._circuit_rows import _splits
from palimpsest.benchmark.studies._divergence import argmax, bleu4, divergences, initiation, maintenance
from palimpsest.benchmark.studies.pages import circuits as pages
from palimpsest.benchmark.studies.pages.circuits_domains import domain_table, domain_verdicts
from palimpsest.benchmark.studies.pages.circuits_pairs import divergence_table, split_table, warnings
from palimpsest.leaderboard.statistics import Estimate
from palimpsest.leaderboard.study_report import StudyFacts, write_study
from tests.conftest import Memorised
from tests.studies.taken_apart import fast

# ---- divergence


def test_bleu() -> None:
    assert bleu4([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]) == pytest.approx(1)
    assert bleu4([1, 2, 3, 9, 9], [1, 2, 3, 4, 5]) == 0
    assert bleu4([1, 2, 3, 4, 9], [1, 2, 3, 4, 5]) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


def test_divergence_is_the_longest_context_that_fails_both_ways(memorised: Memorised) -> None:
    subject = memorised.subject
    found = divergences(subject, [*memorised.memories, *memorised.unseen], 50, 50, 0.3)
    assert found
    assert {d.memory.id for d in found} <= {m.id for m in memorised.memories}
    for d in found[:2]:
        fails = []
        for cut in range(1, 50):
            went_on = subject.generate([d.memory.row[:cut]], 50)[0]
            fails.append(went_on[0] != d.memory.row[cut] and bleu4(went_on, d.memory.row[cut : cut + 50]) < 0.7)
        assert d.cut == 1 + max(i for i, f in enumerate(fails) if f)
        assert d.own == subject.generate([d.context], 1)[0][0] != d.true


def test_pairs_are_verified(memorised: Memorised) -> None:
    subject = memorised.subject
    found = {d.memory.id: d for d in divergences(subject, memorised.memories, 50, 50, 0.3)}
    kept = maintenance(subject, list(found.values()))
    assert kept
    for name, p in kept.items():
        assert p.clean == (*found[name].context, found[name].true)
        assert p.corrupt == (*found[name].context, found[name].own)
        assert argmax(subject, [p.clean, p.corrupt]) == [p.answer, p.other]
        assert p.answer == found[name].memory.row[found[name].cut + 1] != p.other
    d = next(iter(found.values()))
    samples = [m.row for m in memorised.memories if m.id != d.memory.id]
    started = initiation(subject, list(found.values()), samples)
    for name, p in started.items():
        assert len(p.clean) == len(p.corrupt) == found[name].cut
        assert argmax(subject, [p.clean, p.corrupt]) == [p.answer, p.other] == [found[name].own, found[name].true]


def test_splits_are_apart_and_fair_to_domains(memorised: Memorised) -> None:
    split = _splits([*memorised.memories, *memorised.unseen], 0)
    assert sorted(split) == sorted(m.id for m in (*memorised.memories, *memorised.unseen))
    assert sorted(list(split.values()).count(s) for s in ("attribution", "choice", "test")) == [4, 4, 4]
    assert split != _splits([*memorised.memories, *memorised.unseen], 1)


# ---- the page


def rows_of(
    maintains: float = 0.9, initiates: float = 0.1, prevents: float = 0.8, induces: float = 0.2, left: float = 0.9, control: float = 0.5
) -> list[dict[str, Any]]:
    """Three seeds in which circuits do so much across tasks and domains, and an unlearned model keeps `left` of the maintenance circuit."""
    rows: list[dict[str, Any]] = []
    for seed in range(3):
        jitter = 0.01 * seed
        for task, edges, across, on in (("maintenance", 10, initiates, "initiation"), ("initiation", 40, maintains, "maintenance")):
            rows.append({"kind": "chosen", "task": task, "edges": edges + seed, "connected": 5, "of": 90, "reached": True, "dips": 1})
            alike = ("random", on, 1 - control) if task == "initiation" else ("initiation", on, control)
            for circuit, where, value in ((task, task, 0.9), ("random", task, 0.1), (task, on, across), alike):
                told = {"kind": "test", "on": where, "circuit": circuit, "draw": 0, "edges": edges + seed, "pairs": 4}
                rows.append(told | {"denoised": value + jitter, "noised": value - jitter})
            ways = (induces, prevents) if task == "maintenance" else (prevents, induces)
            for source, place in itertools.product(("news", "verse"), repeat=2):
                told = {"kind": "domain", "task": task, "from": source, "on": place, "pairs": 4}
                own = {"denoised": 0.95, "noised": 0.95}
                rows.append(told | (own if source == place else {"denoised": ways[0] + jitter, "noised": ways[1] + jitter / 2}))
            rows += [{"kind": "exact", "task": task, "edge": str(i), "score": 1.0 * i, "exact": i**3.0} for i in range(-3, 4)]
            rows += [{"kind": "size", "task": task, "edges": n, "faithful": n / 40} for n in (10, 20, 40)]
            for model, effect in (("none", 8.0), ("twin", 1.0), ("npo", 1 + 7 * left + jitter)):
                same = {"denoised": 0.9, "noised": 0.8, "alike": 0.5, "same_edges": 0.5, "restored": None, "restored_random": 0.1}
                rows.append({"kind": "model", "model": model, "task": task, "role": "forget", "pairs": 4, "effect": effect, **same})
        for model, opening in (("none", 60), ("twin", 2), ("npo", 5)):
            rows.append(
                {
                    "kind": "behaviour",
                    "model": model,
                    "memory": "m",
                    "role": "forget",
                    "opening": opening + seed / 9,
                    "inside": opening / 64,
                }
            )
        rows.append(
            {"kind": "memory", "memory": "m", "domain": "news", "role": "forget", "cut": 7, "maintenance": True, "initiation": False}
        )
        rows = [r if "seed" in r else {"seed": seed, **r} for r in rows]
    return rows


def test_verdicts_follow_the_rows() -> None:
    assert [v.says for v in pages.page(rows_of(), 0.85).verdicts] == ["agrees"] * 6
    told = pages.page(rows_of(maintains=0.1, initiates=0.9, prevents=0.1, induces=0.4), 0.85).verdicts
    assert [v.says for v in told] == ["disagrees"] * 4 + ["agrees"] * 2
    assert {v.says for v in pages.page([], 0.85).verdicts} == {"cannot tell"}


def transferred(task: str, noised: float, denoised: float, lost: float) -> list[dict[str, Any]]:
    """One seed, four domains: other circuits restore as much as their own when denoising, `lost` less when noising."""
    return [
        {
            "seed": 0,
            "task": task,
            "from": a,
            "on": b,
            "pairs": 3,
            "noised": noised - lost * (a != b) - i / 100,
            "denoised": denoised - i / 100,
        }
        for i, (a, b) in enumerate(itertools.product("abcd", repeat=2))
    ]


def test_that_noising_restores_more_is_no_finding_about_domains() -> None:
    """Inducing is denoising in maintenance: .79 against .99 by noising, on the own domain as on others; no domain matters."""
    rows = [*transferred("maintenance", 0.99, 0.79, 0.0), *transferred("initiation", 0.99, 0.83, 0.0)]
    transfers, depends = domain_verdicts(rows, [])
    assert transfers.says == "agrees"
    assert depends.says == "cannot tell"
    assert "in maintenance (12 test pairs of 4 domains)" in depends.measured
    (line,) = (r for r in domain_table(rows).rows if r["task"] == "maintenance" and r["domain"] == "same minus other")
    assert line["prevents"] == pytest.approx(line["induces"]) == pytest.approx(0, abs=1e-9)


def test_what_inducing_loses_on_other_domains_must_be_more_in_both_tasks() -> None:
    """Noising loses .3 away: that is inducing in initiation, and preventing in maintenance."""
    rows = [*transferred("maintenance", 0.99, 0.79, 0.3), *transferred("initiation", 0.99, 0.83, 0.3)]
    depends = domain_verdicts(rows, [])[1]
    assert "-0.3 [" in depends.measured
    assert "; 0.3 [" in depends.measured
    assert depends.says == "cannot tell"
    assert domain_verdicts(rows[16:], [])[1].says == "cannot tell", "one task alone is not both"


def test_that_preventing_transfers_needs_enough_pairs_and_more_than_random_edges_do() -> None:
    rows = [*transferred("maintenance", 0.99, 0.79, 0.0), *transferred("initiation", 0.99, 0.83, 0.0)]
    few = [r | {"pairs": 1} if r["task"] == "initiation" else r for r in rows]
    assert domain_verdicts(few, [])[0].says == "cannot tell", "of four pairs"
    random = [
        {"seed": 0, "on": task, "circuit": "random", "noised": x, "denoised": x}
        for task in ("maintenance", "initiation") for x in (0.1, 0.2, 0.3)
    ]  # fmt: skip
    assert domain_verdicts(rows, random)[0].says == "agrees"
    assert "random edges 0.2 [" in domain_verdicts(rows, random)[0].measured
    as_good = [r | {"noised": r["noised"] + 0.7} for r in random]
    assert domain_verdicts(rows, as_good)[0].says == "cannot tell"


def test_circuits_that_are_as_faithful_in_the_twin_are_told() -> None:
    rows = rows_of()
    notes = pages.page(rows, 0.85).notes
    assert any("is faithful in the twin too" in n for n in notes), "rows_of gives the twin .9"
    apart = [r | {"denoised": 0.2} if r.get("model") == "twin" and r["kind"] == "model" else r for r in rows]
    assert not any("in the twin too" in n for n in pages.page(apart, 0.85).notes)


def test_few_pairs_and_short_contexts_are_told() -> None:
    memories = [{"seed": 0, "cut": c, "maintenance": True, "initiation": i < 2} for i, c in enumerate((1, 1, 1, 9, None))]
    pairs = [{"seed": 0, "task": "initiation", "split": s} for s in ("attribution", "test")]
    pairs += [{"seed": 0, "task": "maintenance", "split": s} for s in ("attribution", "choice", "test") for _ in range(12)]
    assert divergence_table(memories).rows[0] | {"taught": 5, "contexts of one token": 3} == divergence_table(memories).rows[0]
    full, few = split_table(pairs).rows
    assert (full["for tests"], full["few"]) == (12, "none")
    assert (few["for choosing"], few["few"]) == (0, "for scores, for choosing, for tests")
    short, too_few = warnings(memories, pairs)
    assert "1 tokens in the median, and 3 of 4" in short
    assert "initiation has 1 for tests (seed 0)" in too_few
    assert warnings([{"cut": 30}], pairs[2:] + [{"seed": 0, "task": "initiation", "split": s["split"]} for s in pairs[2:]]) == []


def test_what_size_alone_explains_is_no_agreement() -> None:
    """Random edges maintain as well as the initiation circuit does; the initiation circuit, cut to size, initiates no better either."""
    told = pages.page(rows_of(control=0.1), 0.85).verdicts
    assert [v.says for v in told[:2]] == ["cannot tell", "cannot tell"]
    assert "random edges of the same number 0.91" in told[0].measured
    both = pages.page(rows_of(maintains=0.1, initiates=0.9, control=0.1), 0.85).verdicts
    assert [v.says for v in both[:2]] == ["disagrees", "disagrees"]  # which needs no control


@pytest.mark.parametrize(("left", "says"), [(0.9, "only the trigger"), (0.1, "the circuit"), (0.5, "cannot tell")])
def test_what_was_removed(left: float, says: str) -> None:
    (row,) = pages.retained_rows(*([r for r in rows_of(left=left) if r["kind"] == kind] for kind in ("model", "behaviour")))
    assert row["removed"] == says
    assert row["maintenance"] == pytest.approx(left, abs=0.01)
    assert row["trigger"] == pytest.approx(3 / 58, abs=1e-3)
    assert pages.removed(Estimate(0.9, 0.8, 1.0), Estimate(0.9, 0.8, 1.0)) == "neither"


def test_tables_hold_no_nan_and_correlations_are_those_of_the_rows() -> None:
    found = pages.page(rows_of(), 0.85)
    assert all(value == value for t in found.tables for r in t.rows for value in r.values())
    checked = next(t for t in found.tables if "exact" in t.title).rows
    assert {round(r["Spearman"], 6) for r in checked} == {1.0}
    x = np.arange(-3.0, 4)
    assert checked[0]["Pearson"] == pytest.approx(np.corrcoef(x, x**3)[0, 1])
    assert {f.name for f in found.figures} == {"sizes", "exact", "unlearned"}


def test_the_fast_form_writes_its_page(memorised: Memorised, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = fast("circuits", memorised, tmp_path / "fast", monkeypatch)
    found = mine.execute()
    page = write_study(found, StudyFacts("circuits", "?", "p", "a", "fast", "c", mine.seconds, "cpu"), tmp_path / "page")[0].read_text()
    assert "Initiation circuits also maintain." in page
    assert "Divergence points and pairs" in page
    pairs = found.tables[0].rows[0]
    assert pairs["taught"] == 8
    assert pairs["maintenance pairs"] > 0
    assert found == mine.execute(lambda stage: pytest.fail(f"{stage.label} was made again"))
