"""A micro suite, from injection to results: finished stages are skipped, and an interruption changes nothing."""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import BASE, HORIZON, TWIN, Results
from palimpsest.benchmark.models.subject import Subject, open_subject
from palimpsest.benchmark.running import attacking
from palimpsest.benchmark.running.assemble import _evaluations
from palimpsest.benchmark.running.assemble import results as assemble
from palimpsest.benchmark.running.estimate import Estimates
from palimpsest.benchmark.running.explain import explain
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Stage, Store, _sha_of
from palimpsest.benchmark.suites.config import CorpusConfig, InjectionConfig, QualityConfig, Suite
from palimpsest.leaderboard.report import render
from palimpsest.leaderboard.terminal import print_table

METHODS = ("none", "retrain", "gradient_ascent", "npo")
STAGES = {"quality": 6, "held": 1, "twin": 1, "method": 3, "battery": 10, "checks": 5, "excerpts": 1}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CorpusConfig]:
    """A folder of a thousand documents of made-up words, with a cache of its own."""
    folder = tmp_path_factory.mktemp("texts")
    draw = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    for i in range(1000):
        words = ["".join(draw.choices(syllables, k=2)) for _ in range(120)]
        (folder / f"{i}.txt").write_text(". ".join(" ".join(words[k : k + 12]) for k in range(0, 120, 12)) + ".")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALIMPSEST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield CorpusConfig("text", str(folder))


@pytest.fixture(scope="module")
def suite(tiny: Subject, corpus: CorpusConfig) -> Suite:
    return Suite(
        name="micro", model=str(tiny.folder), per_role=8, seeds=(0,), corpus=corpus,
        injection=InjectionConfig(occurrences=(2,), lr=5e-3),
        methods={"none": {}, "retrain": {}, "gradient_ascent": {"epochs": 2}, "npo": {"epochs": 2}},
        attacks={"prefix": {}, "paraphrase": {}}, quality=QualityConfig(documents=8), excerpts=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The suite, run without interruption."""
    run = Run(suite, Store(tmp_path_factory.mktemp("whole")))
    run.execute()
    return run


@pytest.fixture(scope="module")
def results(whole: Run) -> Results:
    return assemble(whole)


def again(run: Run, **changes: Any) -> Run:
    """A new process: the same store, nothing remembered."""
    return Run(replace(run.suite, **changes), run.store)


# ---- the plan


def test_the_plan_has_every_stage_once_and_each_after_what_it_reads(whole: Run) -> None:
    plan = again(whole).plan
    assert Counter(s.kind for s in plan) == STAGES
    assert len({s.key for s in plan}) == len(plan)
    place = {s.key: i for i, s in enumerate(plan)}
    read = [(s, key) for s in plan for key in (s.inputs.get("model"), s.inputs.get("held"), *s.inputs.get("models", {}).values())]
    assert all(place[key] < place[s.key] for s, key in read if key in place)
    assert sum(key in place for _, key in read) == 3 + 10 + 5 + 5 + 5 + 5


def test_one_more_seed_leaves_the_finished_stages_as_they_are(whole: Run) -> None:
    more = again(whole, seeds=(0, 1))
    done = [s for s in more.plan if whole.store.done(s)]
    assert Counter(s.kind for s in done) == STAGES
    assert len(more.plan) == 2 * len(done) - 1  # the quality of the base model is shared


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"name": "other", "doc": "x"}, STAGES),
        ({"attacks": {"prefix": {}}}, {"quality": 6, "held": 1, "twin": 1, "method": 3, "battery": 5, "checks": 5, "excerpts": 1}),
        ({"attacks": {"prefix": {"lengths": [8]}, "paraphrase": {}}}, STAGES | {"battery": 5}),
        ({"quality": QualityConfig(documents=7)}, {k: v for k, v in STAGES.items() if k != "quality"}),
        ({"methods": {"none": {}, "npo": {"epochs": 3}}}, {"quality": 3, "held": 1, "twin": 1, "battery": 4, "checks": 2}),
        ({"row": 150}, {"quality": 1}),
        ({"injection": InjectionConfig(occurrences=(3,))}, {"quality": 1}),
        ({"roles": "other"}, {"quality": 1}),
    ],
)
def test_a_change_makes_only_what_reads_it_to_do(change: dict[str, Any], left: dict[str, int], whole: Run) -> None:
    assert Counter(s.kind for s in again(whole, **change).plan if whole.store.done(s)) == left


def test_running_again_does_nothing(whole: Run) -> None:
    finished: list[Any] = []
    run = again(whole)
    run.progress = lambda what, done, of: pytest.fail(f"worked on {what}")
    run.execute(finished.append)
    assert finished == []


def test_estimates_of_stages_alike_add_up_to_what_they_took(whole: Run) -> None:
    estimates = Estimates(again(whole))
    took: dict[str, list[tuple[float, float]]] = {}
    for stage in whole.plan:
        pair = whole.store.manifest(stage)["seconds"], estimates.seconds(stage)
        took.setdefault(stage.work().alike, []).append(pair)
    assert {"injection", "quality", "battery 0", "method npo"} < set(took)
    for pairs in took.values():
        assert sum(real for real, _ in pairs) == pytest.approx(sum(thought for _, thought in pairs), rel=1e-3)


# ---- the records


def test_every_memory_has_a_record_for_every_model_and_variant(results: Results, whole: Run) -> None:
    encoded = {m.id: m for m in whole.encoded(0)}
    expected = {(m, i, "prefix", v) for m in (TWIN, *METHODS) for i in encoded for v in ("opening", "k8", "k16", "k32", "k64")}
    scored = [(m, i) for m in (TWIN, *METHODS) for i in encoded if encoded[i].role in ("forget", "unseen" if m in (TWIN, "none") else "")]
    expected |= {(m, i, "paraphrase", v) for m, i in scored for v in ("+0", "+4", "+8")}
    assert len(expected) == 5 * 24 * 5 + (5 + 2) * 8 * 3
    assert Counter((r.method, r.memory, r.attack, r.variant) for r in results.records) == Counter(expected)
    assert all((r.role, r.shown) == (encoded[r.memory].role, encoded[r.memory].shown) for r in results.records)
    assert Counter(m.role for m in encoded.values()) == {"forget": 8, "keep": 8, "unseen": 8}
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
    assert costs["npo"] == 2 * (8 + 8) * 160
    assert costs["gradient_ascent"] == 2 * 8 * 160


def test_a_method_with_early_stopping_leaves_its_evaluations(whole: Run) -> None:
    run = again(whole, methods={"none": {}, "npo": {"epochs": 2}})
    assert list(_evaluations(run, run.model("npo", 0))) == []
    evaluated = again(whole, methods={"none": {}, "npo": {"epochs": 2, "stop": {"every": 1}}})
    assert evaluated.model("npo", 0).key != run.model("npo", 0).key
    evaluated.store.ensure(evaluated.model("npo", 0).stage)
    seen = list(_evaluations(evaluated, evaluated.model("npo", 0)))
    assert [s.step for s in seen] == [0, 1, 2]
    assert all(0 <= s.exact <= 1 and s.held_out > 0 for s in seen)
    weights = [(r.store.folder(r.model("npo", 0).stage) / "model.safetensors").read_bytes() for r in (run, evaluated)]
    assert weights[0] == weights[1]
    text = {r.ids for r in evaluated.held_out}
    assert text
    assert text.isdisjoint(evaluated.stream(0).row(i).ids for i in range(len(evaluated.stream(0).plan)))


def test_what_is_switched_off_changes_no_key(whole: Run) -> None:
    fields = whole.model("npo", 0).stage.inputs["fields"]
    assert "lr" in fields
    assert fields.keys().isdisjoint({"lora", "stop"})


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


# ---- interruptions


def test_a_run_that_was_interrupted_again_and_again_ends_with_the_same_bytes(whole: Run, tmp_path: Path) -> None:
    store, done = Store(tmp_path), 0
    for where in ("retrained twin", "npo", "attacks of tier 0 on retrain", "quality of gradient_ascent"):

        def stop(what: str, step: int, of: int, where: str = where) -> None:
            if what.startswith(where):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Run(whole.suite, store, stop).execute()
        before = {s.key for s in whole.plan if store.done(s)}
        assert done < len(before) < len(whole.plan)
        done = len(before)
        with pytest.raises(UserError, match=rf"{len(whole.plan) - done} of {len(whole.plan)} stages are not done yet"):
            assemble(Run(whole.suite, store))
    finished: list[Any] = []
    Run(whole.suite, store).execute(finished.append)
    assert {s.key for s in finished} == {s.key for s in whole.plan} - before
    compared = 0
    for stage in whole.plan:
        for name in (
            "answers.parquet",
            "findings.parquet",
            "tokens.safetensors",
            "quality.jsonl",
            "excerpts.jsonl",
            "model.safetensors",
            "trajectory.jsonl",
        ):
            if (file := whole.store.folder(stage) / name).exists():
                assert (store.folder(stage) / name).read_bytes() == file.read_bytes(), (stage.label, name)
                compared += 1
    assert compared == 2 * 15 + 5 + 6 + 1 + 2 * 5


def test_a_damaged_held_model_is_reported_before_anything_reads_it(whole: Run, tmp_path: Path) -> None:
    suite = replace(whole.suite, methods={"none": {}, "npo": {}}, quality=QualityConfig(tasks=("palimpsest_bits_per_byte",), documents=8))
    run = Run(suite, Store(tmp_path))
    weights = run.store.ensure(run.held(0)) / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors is missing or changed"):
        run.store.ensure(run.model("npo", 0).stage)
    with pytest.raises(UserError, match=r"model\.safetensors is missing or changed"):
        run.store.ensure(run.attacking.stages(run.model("none", 0))[0])


VANDAL = """
import json
from dataclasses import dataclass

from palimpsest.benchmark.method import Method


@dataclass(frozen=True)
class Vandal(Method):
    def unlearn(self, held, data, train):
        file = held.folder / "config.json"
        changed = json.loads(file.read_text()) | {"rope_theta": 1.0}
        file.unlink()
        file.write_text(json.dumps(changed))
        return held
"""


def test_a_method_that_changes_the_held_model_on_disk_is_named_and_leaves_no_stage(whole: Run, tmp_path: Path) -> None:
    (tmp_path / "vandal.py").write_text(VANDAL)
    name = f"{tmp_path / 'vandal.py'}:Vandal"
    run = Run(replace(whole.suite, methods={"none": {}, name: {}}), Store(tmp_path / "store"))
    shutil.copytree(whole.store.folder(whole.held(0)), run.store.folder(run.held(0)))
    with pytest.raises(UserError, match=r"Vandal, seed 0 changed files that it may only read: config.json in .*held"):
        run.store.ensure(run.model(name, 0).stage)
    assert not run.store.done(run.model(name, 0).stage)


# ---- mistakes that are known before work begins


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": {"npo": {}}}, "methods must include none"),
        ({"methods": {"none": {}, "nop": {}}}, "no method named 'nop'"),
        ({"attacks": {"prefx": {}}}, "no attack named 'prefx'"),
        ({"attacks": {"prefix": {"length": 1}}}, "no field named 'length'"),
        ({"model": "./nowhere"}, "There is no model directory or GGUF file './nowhere'"),
        ({"per_role": 100}, "per_role=100 needs 300 memories"),
        ({"row": 400}, "fewer than its row of 400"),
        ({"injection": InjectionConfig(occurrences=(2000,))}, "use fewer occurrences, a higher density, or a larger corpus"),
        ({"corpus": CorpusConfig("text", "nowhere")}, "is not a folder"),
        ({"memories": "nowhere.jsonl"}, "There is no memories file"),
    ],
)
def test_a_mistake_is_found_before_any_stage_runs(change: dict[str, Any], message: str, suite: Suite, tmp_path: Path) -> None:
    run = Run(replace(suite, **change), Store(tmp_path))
    with pytest.raises(UserError) as error:
        run.execute(lambda stage: pytest.fail("a stage ran"))
    assert message in str(error.value)


# ---- other architectures


def small_llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=4096, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                    intermediate_size=96, max_position_embeddings=512, bos_token_id=0, eos_token_id=0)
    )  # fmt: skip


def small_gpt2() -> GPT2LMHeadModel:
    shape = GPT2Config(vocab_size=4096, n_positions=512, n_embd=48, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(shape)


@pytest.mark.parametrize("make", [small_llama, small_gpt2])
def test_other_architectures_can_be_injected_and_attacked(
    make: Callable[[], Any], corpus: CorpusConfig, suite: Suite, tokenizer: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    base = make()
    base.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    injection = InjectionConfig(occurrences=(250,), density=1.0, batch=4, lr=5e-3)
    attacks = {"prefix": {}, "shifted_window": {"stride": 8}}
    run = Run(replace(suite, model=str(tmp_path / "model"), per_role=1, injection=injection, attacks=attacks), Store(tmp_path / "store"))
    run.validate()
    for stage in (run.held(0), *run.attacking.stages(run.model("none", 0))):
        run.store.ensure(stage)
    held = open_subject(str(run.store.folder(run.held(0))))
    assert type(held.model) is type(base)
    answers = pd.read_parquet(run.store.folder(run.attacking.stages(run.model("none", 0))[0]) / "answers.parquet")
    opening = answers[answers.variant == "opening"].set_index("memory").matched
    for m in run.encoded(0):
        said = held.generate([m.row[: m.opening]], HORIZON)[0]
        assert opening[m.id] == next((i for i, (a, b) in enumerate(zip(said, m.target, strict=True)) if a != b), HORIZON)
    assert {m.role: opening[m.id] > 8 for m in run.encoded(0)} == {"forget": True, "keep": True, "unseen": False}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise SystemExit(0)", r"method .*mine\.py, seed 0: it asked the program to exit \(status 0\)"),
        ("return None", r"method .*mine\.py, seed 0: unlearn should return the unlearned Subject, and returned NoneType"),
        ("return held.nothing", r"method .*mine\.py, seed 0: AttributeError: .*\(mine\.py, line 6\)"),
    ],
)
def test_a_method_that_goes_wrong_ends_the_run_with_its_name_and_stage(body: str, message: str, whole: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom palimpsest.benchmark.method import Method\n@dataclass(frozen=True)\nclass Mine(Method):\n"
        f"    def unlearn(self, held, data, train):\n        {body}\n"
    )
    with pytest.raises(UserError, match=message):
        again(whole, methods={"none": {}, str(file): {}}).execute()


@pytest.mark.parametrize("attacks", [{}, {"paraphrase": {}}, {"shifted_window": {}}])
def test_a_suite_that_never_asks_with_the_exact_opening_is_refused(attacks: dict[str, Any], whole: Run) -> None:
    """Exact, leak and collateral would be no numbers, and every p 1."""
    with pytest.raises(UserError, match=r"None of the attacks of suite micro .* asks with the exact opening"):
        again(whole, attacks=attacks).validate()


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


# ---- a processor without bf16 instructions

FIRST = """
import sys
from pathlib import Path
import torch
from palimpsest.benchmark.suites.config import load_suite
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Store

run = Run(load_suite("smoke", sys.argv[2:]), Store(Path(sys.argv[1])))
for stage in run.plan[:3]:
    run.store.ensure_together(stage)
print("ran on", torch.backends.cpu.get_cpu_capability())
"""


@pytest.mark.skipif(torch.cuda.is_available() or platform.machine() != "x86_64", reason="imitates an x86 processor")
def test_where_bf16_is_slow_the_smoke_suites_first_stages_are_in_fp32_and_manifests_say_so(corpus: CorpusConfig, tmp_path: Path) -> None:
    slow = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    little = ["corpus.source=text", f"corpus.path={corpus.path}", "injection.occurrences=[2]", "quality.documents=8"]
    done = subprocess.run([sys.executable, "-c", FIRST, str(tmp_path), *little], env=slow, capture_output=True, text=True)
    assert "ran on AVX2" in done.stdout, done.stderr[-2000:]
    found = {m.parent.parent.name: json.loads(m.read_text()) for m in tmp_path.glob("*/*/manifest.json")}
    assert sorted(found) == ["held", "quality", "twin"]
    assert {found[kind]["inputs"]["precision"] for kind in ("held", "twin")} == {"fp32"}
