"""A micro suite from injection to results: records, quality, costs, texts and tables of every model."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import BASE, TWIN, Results
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.running import attacking
from palimpsest.benchmark.running.assemble import _evaluations
from palimpsest.benchmark.running.assemble import results as assemble
from palimpsest.benchmark.running.explain import explain
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Stage, Store, _sha_of
from palimpsest.benchmark.suites.config import QualityConfig
from palimpsest.leaderboard.report import render
from palimpsest.leaderboard.terminal import print_table
from tests.benchmark.micro_run import METHODS, again


def test_every_memory_has_a_record_for_every_model_and_variant(results: Results, whole: Run) -> None:
    encoded = {m.id: m for m in whole.encoded(0)}
    expected = {(m, i, "prefix", v) for m in (TWIN, *METHODS) for i in encoded for v in ("opening", "k8", "k16", "k32", "k64")}
    scored = [(m, i) for m in (TWIN, *METHODS) for i in encoded if encoded[i].role in ("forget", "unseen" if m in (TWIN, "none") else "")]
    expected |= {(m, i, "paraphrase", v) for m, i in scored for v in ("+0", "+4", "+8")}
    assert len(expected) == 5 * 12 * 5 + (5 + 2) * 4 * 3
    assert Counter((r.method, r.memory, r.attack, r.variant) for r in results.records) == Counter(expected)
    assert all((r.role, r.shown) == (encoded[r.memory].role, encoded[r.memory].shown) for r in results.records)
    assert Counter(m.role for m in encoded.values()) == {"forget": 4, "keep": 4, "unseen": 4}
    assert all(0 <= r.matched <= r.horizon <= 64 for r in results.records)


def test_a_record_names_the_model_it_was_read_from(results: Results, whole: Run) -> None:
    keys = {m: whole.model(m, 0).key for m in (TWIN, *METHODS)}
    assert {(r.method, r.model) for r in results.records} == set(keys.items())
    assert len(set(keys.values())) == 5


def test_what_a_model_was_asked_is_kept_by_its_stage_its_weights_its_tokenizer_and_the_reader(
    whole: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by its stage alone: whoever deletes a stage's folder and runs it again may get other weights under the same key."""
    models = {whole.model(m, 0).key for m in (TWIN, *METHODS)}
    files = {f.name for f in (whole.store.root / ".rows").glob("*.safetensors")}
    assert sorted(f.partition("-")[0] for f in files) == sorted(models)
    asking, npo = whole.attacking, whole.model("npo", 0)
    subject = whole.subject(npo)
    assert asking.rows(npo, subject).name in files
    others = [Subject(whole.store.folder(whole.held(0)))]
    for name in ("hash", "encoding"):
        others.append(Subject(subject.folder))
        others[-1].__dict__[name] = "another"
    assert not files & {asking.rows(npo, other).name for other in others}
    monkeypatch.setattr(attacking, "READER", 99)
    assert asking.rows(npo, subject).name not in files


def test_answers_of_models_that_are_gone_are_collected(whole: Run, tmp_path: Path) -> None:
    run = again(whole)
    run.store = Store(tmp_path)
    model, rows = run.held(0), tmp_path / ".rows"
    run.store.ensure(Stage(model.kind, model.label, model.inputs, lambda folder: (folder / "it").write_text("x") and None))
    rows.mkdir()
    for name in (f"{model.key}-aa", f"{model.key}-bb", "0123456789abcdef-aa"):
        (rows / f"{name}.safetensors").write_text("x")
    made = (run.store.folder(model) / "manifest.json").stat().st_mtime
    os.utime(rows / f"{model.key}-bb.safetensors", (made - 10, made - 10))  # of the weights that were there before
    gone = run.store.collect({s.key for s in run.plan}, delete=True)
    assert sorted(f.name for f, _ in gone) == sorted(["0123456789abcdef-aa.safetensors", f"{model.key}-bb.safetensors"])
    assert [f.name for f in rows.iterdir()] == [f"{model.key}-aa.safetensors"]
    assert run.store.collect(set(), delete=True)
    assert list(rows.iterdir()) == []


def test_a_report_says_that_its_stages_come_from_different_commits_libraries_or_devices(whole: Run) -> None:
    assert not [w for w in assemble(whole).warnings if "Not all stages" in w]
    file = whole.store.folder(whole.model("npo", 0).stage) / "manifest.json"
    before, stat = file.read_text(), file.stat()
    changed = json.loads(before) | {"commit": "f" * 40, "dirty": True, "device": "cuda (GPU)"}
    changed["versions"] |= {"torch": "9.9"}
    changed["sha"] = _sha_of(changed)
    file.chmod(0o644)
    file.write_text(json.dumps(changed))
    try:
        found = [w for w in assemble(again(whole)).warnings if "Not all stages" in w]
    finally:
        file.write_text(before)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        file.chmod(stat.st_mode)
    assert any("the same device" in w and "cuda (GPU): method npo, seed 0" in w for w in found)
    assert any("the same versions" in w and "torch 9.9: method npo, seed 0" in w and "numpy" not in w for w in found)
    assert json.loads(before)["commit"] is None or any("ffffffffff with changes of its own: method npo, seed 0." in w for w in found)


def test_quality_is_measured_for_the_base_and_for_every_model(results: Results) -> None:
    tasks = {"palimpsest_bits_per_byte", "palimpsest_choice", "palimpsest_last_word"}
    assert {(q.method, q.task) for q in results.quality} == {(m, t) for m in (BASE, TWIN, *METHODS) for t in tasks}
    assert all(0 < len(q.documents) <= 8 for q in results.quality)
    bits = {q.method: q.value for q in results.quality if q.metric == "bits_per_byte"}
    assert bits["none"] < bits[BASE], "even two steps on the corpus help a random model"
    assert len(set(bits.values())) == 6


def test_training_costs_are_those_of_the_stream(results: Results, whole: Run) -> None:
    costs = {c.method: c.tokens for c in results.costs}
    assert set(costs) == {TWIN, "retrain", "gradient_ascent", "npo"}
    assert all(c.flops > 0 and c.seconds > 0 and c.peak_mib >= 0 for c in results.costs)
    assert costs[TWIN] == costs["retrain"] == whole.stream(0).steps * 32 * 160
    assert costs["npo"] == 2 * (4 + 8) * 160, "eight retain rows stand beside four forget rows"
    assert costs["gradient_ascent"] == 2 * 4 * 160


def test_a_method_with_early_stopping_leaves_its_evaluations(whole: Run) -> None:
    fields = {"epochs": 2, "lr": 2e-4}  # not those of `whole`, which another process may have trained: weights are compared to the last bit
    run = again(whole, methods={"none": {}, "npo": fields})
    evaluated = again(whole, methods={"none": {}, "npo": fields | {"stop": {"every": 1}}})
    assert evaluated.model("npo", 0).key != run.model("npo", 0).key
    for r in (run, evaluated):
        r.store.ensure(r.model("npo", 0).stage)
    assert list(_evaluations(run, run.model("npo", 0))) == []
    seen = list(_evaluations(evaluated, evaluated.model("npo", 0)))
    assert [s.step for s in seen] == [0, 1, 2]
    assert all(0 <= s.exact <= 1 and s.held_out > 0 for s in seen)
    weights = [(r.store.folder(r.model("npo", 0).stage) / "model.safetensors").read_bytes() for r in (run, evaluated)]
    assert weights[0] == weights[1]
    text = {r.ids for r in evaluated.held_out}
    assert text
    assert text.isdisjoint(evaluated.stream(0).row(i).ids for i in range(len(evaluated.stream(0).plan)))


def test_texts_side_by_side_show_every_model(results: Results) -> None:
    assert len(results.excerpts) == 2
    for e in results.excerpts:
        assert e.role == "forget"
        assert set(e.said) == {BASE, TWIN, *METHODS}


def test_held_and_twin_differ_and_none_of_the_models_is_the_base(whole: Run) -> None:
    hashes = {m: Subject(whole.store.folder(whole.model(m, 0).stage)).hash for m in (TWIN, *METHODS)} | {BASE: whole.base.hash}
    assert len(set(hashes.values())) == 6


@pytest.mark.parametrize("format", ["md", "html", "csv", "latex"])
def test_results_render(format: str, results: Results) -> None:
    text = render(results, format)
    assert all(m in text or m.replace("_", r"\_") in text for m in METHODS)


def test_the_table_prints_and_a_memory_can_be_explained(results: Results, whole: Run) -> None:
    console = Console(width=200, record=True, quiet=True)
    print_table(results, console)
    memory = results.records[0].memory
    text = explain(again(whole), memory, "paraphrase")
    assert f"{memory} under paraphrase, seed 0" in text
    assert text.count("  truth   ") == 5
    with pytest.raises(UserError, match="no attack named 'prefx'"):
        explain(again(whole), memory, "prefx")
    with pytest.raises(UserError, match="no memory named 'nobody'"):
        explain(again(whole), "nobody", "prefix")


def test_an_attack_of_ones_own_can_ask_with_the_exact_opening(whole: Run, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "from palimpsest.benchmark.attack import Probe, Prompting\n\n"
        "@dataclass(frozen=True)\nclass Own(Prompting):\n"
        '    """The opening, under another name."""\n'
        "    clipped: bool = False\n"
        '    asks = {"whole": "exact"}\n\n'
        "    def probes(self, memory, tools):\n"
        "        prompt = memory.row[int(self.clipped) : memory.opening]\n"
        '        yield Probe(memory.id, prompt, memory.target, memory.opening, (0,), ("whole",), start=0)\n'
    )
    name = f"{file}:Own"
    run = again(whole, attacks={"prefix": {}, name: {}}, quality=QualityConfig(documents=8))
    run.execute()
    found = {(r.attack, r.method, r.memory): r.matched for r in assemble(run).records if r.asks == "exact"}
    mine = {k[1:]: n for k, n in found.items() if k[0] != "prefix"}
    assert mine == {k[1:]: n for k, n in found.items() if k[0] == "prefix"}
    assert {m.role for m in run.encoded(0) if ("npo", m.id) in mine} == {"forget", "keep", "unseen"}, "collateral is read from it"
    with pytest.raises(UserError, match=r"'whole' is declared to ask with the exact opening, but its prompt .* is another"):
        again(whole, attacks={name: {"clipped": True}}).execute()
