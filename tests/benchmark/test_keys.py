"""Keys know what results depend on: what an edit invalidates, as the table in docs/architecture.md says, and why a stage is to do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing

from palimpsest.benchmark.common.plugins import find
from palimpsest.benchmark.common.versions import VERSIONS
from palimpsest.benchmark.running import attacking, models
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.reasons import Reasons
from palimpsest.benchmark.running.store import Stage, Store
from tests.benchmark.world import World

ARCHITECTURE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"

# ---- the table


def _weights(w: World) -> None:
    file = w.folder / "model" / "model.safetensors"
    save_file({k: v + 1 for k, v in load_file(file).items()}, file, metadata={"format": "pt"})


def _post_processor(w: World) -> None:
    def lead(it: Any) -> None:
        it.bos_token = "<|endoftext|>"
        it.backend_tokenizer.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])

    w.tokenizer(lead)


def _padding(w: World) -> None:
    def pad(it: Any) -> None:
        it.backend_tokenizer.enable_truncation(32)
        it.backend_tokenizer.enable_padding(length=8)

    w.tokenizer(pad)


def _field(w: World, **changes: Any) -> None:
    w.suite = replace(w.suite, **changes)


def _gpu(w: World) -> None:
    w.patch.setattr(models, "device", lambda: torch.device("cuda", 0))


EDITS: dict[str, Callable[[World], Any]] = {
    "the base model's weights": _weights,
    "the tokenizer's post-processor": _post_processor,
    "the tokenizer's end-of-text id": lambda w: w.tokenizer(lambda it: setattr(it, "eos_token", it.convert_ids_to_tokens(5))),
    "the tokenizer's truncation or padding": _padding,
    "the text of a memory": lambda w: w.edit("memories.jsonl", "the", "teh"),
    "the recipe of the injection": lambda w: _field(w, injection=replace(w.suite.injection, lr=1e-4)),
    "the content of the DeepSpeed file": lambda w: w.edit("zero0.json", "{", '{"wall_clock_breakdown": true,'),
    "another kind of device": _gpu,
    "the code of a method": lambda w: w.edit("forget.py", "return held", "return held or held"),
    "a module beside a method that it imports": lambda w: w.edit("beside.py", "AMOUNT = 2.0", "AMOUNT = 2.0\nOTHER = 1"),
    "comments and docstrings of a method": lambda w: (w.edit("forget.py", "Forgets.", "Does."), w.edit("forget.py", "# nothing", "")),
    "the `strength` that a method declares": lambda w: (
        w.edit("forget.py", "    def unlearn", '    strength: ClassVar = Strength("amount")\n\n    def unlearn'),
        w.edit("forget.py", "import Method", "import Method, Strength"),
    ),
    "the code of `benchmark/attack_tools/rewording.py`": lambda w: w.pretend("code", "rewording.py"),
    "the content of `configs/synonyms.txt`": lambda w: w.pretend("_content", "synonyms.txt"),
    "a field of an attack of tier 2": lambda w: _field(w, attacks=w.suite.attacks | {"quantise": {"group": 16}}),
    "the version of `battery`": lambda w: w.patch.setitem(VERSIONS, "battery", 99),
    "the version of `method`": lambda w: w.patch.setitem(VERSIONS, "method", 99),
    "the version of the reader": lambda w: w.patch.setattr(attacking, "READER", 99),
    "the name of the suite": lambda w: _field(w, name="other", doc="x"),
    "the code of `leaderboard/report.py`": lambda w: w.pretend("code", "report.py"),
}


def rows() -> dict[str, str]:
    """Edit -> which stages are done again, as the documentation says."""
    table = ARCHITECTURE.read_text("utf-8").partition("| edit |")[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| (.+?) \| (.+?) \|$", table, re.MULTILINE))


def test_the_table_of_edits_is_the_one_that_is_tried() -> None:
    assert list(rows()) == list(EDITS)


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_invalidates_what_the_documentation_says(edit: str, world: World) -> None:
    before = world.keys()
    EDITS[edit](world)
    after = world.keys()
    assert after.keys() == before.keys()
    changed = {stage for stage, key in after.items() if before[stage] != key}
    said = rows()[edit]
    if said.startswith("all"):
        assert after.keys() - changed == ({("quality", "quality of base")} if "base model's quality" in said else set())
    else:
        assert {kind for kind, _ in changed} == set(re.findall(r"`(\w+)`", said.partition("(")[0]))
    if "that method" in said:
        assert {label for kind, label in changed if kind != "excerpts" and "forget.py" not in label} == set()


def test_a_second_plug_in_that_shares_a_module_changes_with_it_too(world: World) -> None:
    shared = ("paraphrase", "word_substitution", "frames", "priming", "filler")
    before = {name: find("attack", name).source for name in shared}
    world.pretend("code", "rewording.py")
    find.cache_clear()
    assert all(find("attack", name).source != before[name] for name in shared)
    assert len(set(before.values())) == len(shared)


# ---- why


def finished(world: World) -> Store:
    """A store in which everything is done, with nothing but manifests in it."""
    store = Store(world.folder / "store")
    for stage in Run(world.suite, store).plan:
        store.ensure(Stage(stage.kind, stage.label, stage.inputs, lambda folder: (folder / "it").write_text("x") and None))
    return store


@pytest.mark.parametrize(
    ("edit", "kind", "why"),
    [
        ("the tokenizer's post-processor", "held", "tokenizer changed"),
        ("the recipe of the injection", "held", "injection.lr 0.005 → 0.0001"),
        ("the recipe of the injection", "checks", "held changed, model changed"),
        ("another kind of device", "held", "device cpu → cuda"),
        ("another kind of device", "quality", "device added"),
        ("a field of an attack of tier 2", "attack", "attack.fields.group added"),
        ("the version of `battery`", "battery", f"version of battery {VERSIONS['battery']} → 99"),
        (
            "the code of `benchmark/attack_tools/rewording.py`",
            "battery",
            "attacks.paraphrase.source changed, attacks.word_substitution.source changed",
        ),
        ("the content of `configs/synonyms.txt`", "battery", "attacks.word_substitution.reads changed"),
    ],
)
def test_it_is_said_why_a_stage_is_to_be_done_again(edit: str, kind: str, why: str, world: World) -> None:
    store = finished(world)
    EDITS[edit](world)
    find.cache_clear()
    reasons = Reasons(store)
    todo = [s for s in Run(world.suite, store).plan if s.kind == kind and not store.done(s)]
    assert why in {reasons.why(s) for s in todo}


def test_what_was_never_made_is_new_and_an_interrupted_one_begun(world: World) -> None:
    store = Store(world.folder / "store")
    first, second, *_ = Run(world.suite, store).plan
    store.scratch(second).mkdir(parents=True)
    assert [Reasons(store).why(s) for s in (first, second)] == ["new", "begun"]


def test_the_nearest_of_several_finished_stages_is_compared(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def stage(**inputs: Any) -> Stage:
        return Stage("held", "it", inputs, lambda folder: (folder / "it").write_text(json.dumps(inputs)) and None)

    for it in (stage(a=1, b=1, c=1), stage(a=2, b=2, c=1)):
        store.ensure(it)
    assert Reasons(store).why(stage(a=2, b=2, c=2)) == "c 1 → 2"
