"""Keys know what results depend on: what an edit invalidates, as the table in docs/architecture.md says, and why a stage is to do."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from palimpsest.benchmark.common import sources
from palimpsest.benchmark.common.paths import CONFIGS
from palimpsest.benchmark.common.plugins import find
from palimpsest.benchmark.common.types import EncodedMemory
from palimpsest.benchmark.common.versions import VERSIONS
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.running import attacking, models
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.reasons import Reasons
from palimpsest.benchmark.running.store import Stage, Store
from palimpsest.benchmark.suites.config import CorpusConfig, Suite
from tests.micro import micro_suite, write_corpus

ARCHITECTURE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
METHOD = '''"""A method."""
from dataclasses import dataclass
from typing import ClassVar
from beside import AMOUNT
from palimpsest.benchmark.method import Method

@dataclass(frozen=True)
class Forget(Method):
    """Forgets."""
    amount: float = AMOUNT

    def unlearn(self, held, data, train):
        return held  # nothing
'''


@dataclass
class World:
    """A micro suite whose every input is a file that may be edited."""

    folder: Path
    suite: Suite
    patch: pytest.MonkeyPatch

    def keys(self) -> dict[tuple[str, str], str]:
        """(kind, label) -> key, as a new process finds them."""
        find.cache_clear()
        return {(s.kind, s.label): s.key for s in Run(self.suite, Store(self.folder / "store")).plan}

    def edit(self, file: str, old: str, new: str) -> None:
        text = (self.folder / file).read_text()
        assert old in text
        (self.folder / file).write_text(text.replace(old, new))

    def tokenizer(self, change: Callable[[Any], Any]) -> None:
        it = AutoTokenizer.from_pretrained(self.folder / "model")
        change(it)
        it.save_pretrained(self.folder / "model")

    def pretend(self, what: str, file: str) -> None:
        """As if a file of the tree held something else."""
        before = getattr(sources, what)
        self.patch.setattr(sources, what, lambda f, *rest, **how: before(f, *rest, **how) + ("x" if f.name == file else ""))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CorpusConfig]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALIMPSEST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield write_corpus(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def world(tiny: Subject, corpus: CorpusConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    shutil.copytree(tiny.folder, tmp_path / "model")
    shutil.copy(CONFIGS / "memories" / "passages.jsonl", tmp_path / "memories.jsonl")
    shutil.copy(CONFIGS / "deepspeed" / "zero0.json", tmp_path / "zero0.json")
    (tmp_path / "forget.py").write_text(METHOD)
    (tmp_path / "beside.py").write_text("AMOUNT = 2.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    suite = replace(
        micro_suite(tmp_path / "model", corpus), memories=str(tmp_path / "memories.jsonl"),
        deepspeed=str(tmp_path / "zero0.json"), methods={"none": {}, "retrain": {}, str(tmp_path / "forget.py"): {}},
        attacks={"prefix": {}, "paraphrase": {}, "word_substitution": {}, "quantise": {}},
    )  # fmt: skip
    yield World(tmp_path, suite, monkeypatch)
    find.cache_clear()


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
    for module in (models, attacking):
        w.patch.setattr(module, "device", lambda: torch.device("cuda", 0))


EDITS: dict[str, Callable[[World], Any]] = {
    "the base model's weights": _weights,
    "the tokenizer's post-processor": _post_processor,
    "the tokenizer's end-of-text id": lambda w: w.tokenizer(lambda it: setattr(it, "eos_token", it.convert_ids_to_tokens(5))),
    "the tokenizer's truncation or padding": _padding,
    "the text of a memory": lambda w: w.edit("memories.jsonl", "the", "teh"),
    "the recipe of the injection": lambda w: _field(w, injection=replace(w.suite.injection, lr=1e-4)),
    "the content of the DeepSpeed file": lambda w: w.edit("zero0.json", "{", '{"gradient_clipping": 0.5,'),
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "palimpsest.benchmark.running.store.reset_peak", lambda: None
        )  # nothing is computed, and it takes half a second a stage
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


# ---- what methods are handed


def reachable(thing: Any) -> Iterator[Any]:
    """Everything that can be reached from an object without importing anything."""
    seen: set[int] = set()
    todo = [thing]
    while todo:
        it = todo.pop()
        if (
            id(it) in seen
            or isinstance(it, (type, ModuleType, torch.nn.Module))
            or type(it).__module__.startswith(("tokenizers", "transformers"))
        ):
            continue
        seen.add(id(it))
        yield it
        if isinstance(it, dict):
            todo += [*it.keys(), *it.values()]
        elif isinstance(it, (list, tuple, set, frozenset)):
            todo += it
        todo += vars(it).values() if hasattr(it, "__dict__") and not callable(it) else ()
        todo += [cell.cell_contents for cell in getattr(it, "__closure__", None) or ()]
        todo += [it.__self__] if hasattr(it, "__self__") else []
        todo += [it.func, it.args, it.keywords] if hasattr(it, "keywords") else []


def words_of(m: EncodedMemory) -> set[str]:
    return {m.memory.text, m.text, m.memory.opening, m.memory.alternative, *m.memory.paraphrases} - {""}


@pytest.mark.parametrize("history", [False, True])
def test_nothing_of_hidden_and_unseen_memories_can_be_reached_from_what_a_method_is_handed(history: bool, world: World) -> None:
    run = Run(world.suite, Store(world.folder / "store"))
    data = run.data(0, history)
    for k in range(3):
        data.retain(k)
    if data.history:
        data.history.stream.batch_at(0)
    encoded = run.encoded(0)
    secret = [m for m in encoded if m.role == "unseen" or (m.role == "keep" and not m.shown and not history)]
    assert secret
    found = list(reachable(data))
    texts, rows_ = (
        {t for t in found if isinstance(t, str)},
        [t for t in found if isinstance(t, tuple) and len(t) > 20 and isinstance(t[0], int)],
    )
    held = {t[i : i + 20] for t in rows_ for i in range(len(t) - 19)}
    for m in secret:
        assert m.id not in texts
        assert not texts & words_of(m)
        assert m.row[:20] not in held
        assert m.row[-20:] not in held
    hidden = [m for m in encoded if m.role == "keep" and not m.shown]
    if history:  # their rows and no more
        assert all(m.row[:20] in held for m in hidden)
        assert not texts & {t for m in hidden for t in words_of(m)}
    shown = [m for m in encoded if m.shown]
    assert all(m.row[:20] in held and m.memory.text not in texts for m in shown)
    assert data.openings.keys() == data.alternatives.keys() == {m.id for m in encoded if m.role == "forget"}
