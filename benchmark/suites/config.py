"""Suites: YAML files with typed fields. Defaults < the suite it extends < the suite < the command line."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, Any

from ..common.budget import Budget
from ..common.errors import UserError, unknown
from ..common.fields import build
from ..common.limits import PLAIN_WORD, SOME, Count, CountOrZero, Counts, NotNegative, Part, Positive, Schedule, Share, hold, one_of
from ..common.paths import CONFIGS
from ..common.plugins import find
from ..common.types import BASE, HELD, TWIN
from ..common.written import merged, read_value, read_yaml

SUITES = CONFIGS / "suites"
PLUGINS = ("methods", "attacks", "reasked")
HALVES = ("test", "validation")
PRECISIONS = ("auto", "bf16", "fp32")
INJECTING = ("model", "revision", "injection")  # fields that say what is injected into, and how


@dataclass(frozen=True)
class CorpusConfig:
    """Where ordinary text comes from: docstrings, or a text folder, JSONL file or dataset at `path`, or the retain text of a set."""

    source: Annotated[str, one_of("docstrings", "text", "jsonl", "datasets", "set")] = "docstrings"  # those of installed packages
    path: str | None = None  # a folder of .txt and .md files, a JSONL file, a dataset, or a forget set
    text_field: str = "text"  # which field of a JSONL file or dataset holds the text


@dataclass(frozen=True)
class InjectionConfig:
    """How memories enter: how often, how densely, and the training recipe around them."""

    occurrences: Counts = (24,)  # per memory; several counts go round the memories of each role, for dose curves
    density: Share = 0.5  # share of the stream's examples that are memories; 0.5 is dense and quick
    offset: CountOrZero = 0  # tokens of ordinary text before each memory, in the same row
    batch: Count = 32  # rows per step
    lr: Positive = 2e-3  # at its highest
    schedule: Schedule = "linear"  # of the learning rate
    warmup: Part = 0.02  # share of the steps in which it rises
    final_lr: Part = 0.1  # share of lr at the end
    weight_decay: NotNegative = 0.0  # of AdamW

    def __post_init__(self) -> None:
        hold(self, "injection.")


@dataclass(frozen=True)
class QualityConfig:
    """Which lm-eval tasks measure quality, on how many held-out documents of which half."""

    tasks: Annotated[tuple[str, ...], SOME] = ("palimpsest_bits_per_byte", "palimpsest_choice", "palimpsest_last_word")  # of lm-eval
    documents: Count | None = 200  # per task; null takes all
    batch: Count = 32  # documents at once
    half: Annotated[str, one_of(*HALVES)] = "test"  # tables use the one, tuning the other
    yardstick: str = "palimpsest_bits_per_byte"  # the task of which damage is the loss; one of `tasks`

    def __post_init__(self) -> None:
        hold(self, "quality.")
        if self.yardstick not in self.tasks:
            raise UserError(
                f"quality.yardstick={self.yardstick!r}: expected one of quality.tasks ({', '.join(self.tasks)}), "
                "since damage is what is lost of it, and a row without damage can neither collapse nor be best."
            )


@dataclass(frozen=True)
class Suite:
    """Everything a run depends on. `methods` and `attacks` map a plug-in to the fields that differ from its defaults.

    Where `held` names a model that knows the memories already, nothing is injected, and what says how is refused (docs/observed.md).
    Such models are named as `model` is, with @REVISION behind a hub id where one is meant.
    """

    name: Annotated[str, PLAIN_WORD] = "unnamed"  # the report's folder; the file's name without it
    doc: str = ""  # what it is for
    model: str = "pocket"  # a shipped model, a local directory, or a hub id
    revision: str | None = None  # of the hub id
    held: str = ""  # a model that knows the memories
    retrained: str = ""  # one that was trained alike and never met those to forget; without it the null is of never-seen texts alone
    given: dict[str, str] = field(default_factory=dict)  # row of the table -> a model that was unlearned elsewhere
    row: Count = 160  # tokens of a memory that a model meets
    memories: str = "passages"  # the shipped passages, a file (JSON lines), or a forget set such as tofu:forget10
    per_role: Count = 64  # memories of each role: to forget, to keep, never seen
    track: str = ""  # its tuned fields (configs/tracks) are the methods' defaults; what `methods` says wins
    roles: str = ""  # another word gives another partition; published tables use the empty one
    seeds: Annotated[tuple[CountOrZero, ...], SOME] = (0, 1, 2)  # each deals the roles anew, and injects and unlearns once
    strengths: tuple[Positive, ...] = ()  # each method is run at these, 1 being its ordinary run; empty: there alone
    corpus: CorpusConfig = field(default_factory=CorpusConfig)  # ordinary text
    injection: InjectionConfig = field(default_factory=InjectionConfig)  # how memories enter
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)  # none must be among them
    attacks: dict[str, dict[str, Any]] = field(default_factory=dict)  # one must ask the exact opening: prefix does
    reasked: dict[str, dict[str, Any]] = field(default_factory=dict)  # what changed models are asked; empty: cheap black-box attacks
    ask: Annotated[str, one_of("all", "subset", "worst")] = "subset"  # tiers 2, 3: about all, some and survivors, or survivors
    subset: Count = 32  # memories per role that every model is asked about in tiers 2 and 3
    quality: QualityConfig = field(default_factory=QualityConfig)  # what forgetting cost
    budget: Budget = field(default_factory=Budget)  # of damage and collateral, within which methods are ranked
    published: bool = False  # whether measures that other papers print are taken too (docs/observed.md)
    precision: Annotated[str, one_of(*PRECISIONS)] = "auto"  # whichever of bf16 and fp32 is faster on this device
    deepspeed: str = "zero0"  # one of configs/deepspeed, or a file
    excerpts: CountOrZero = 3  # forget memories whose texts are shown side by side

    def __post_init__(self) -> None:
        hold(self, "")
        if self.track:
            PLAIN_WORD.validate(self.track, "track")
        for name, values in (("seeds", self.seeds), ("strengths", self.strengths)):
            if len(set(values)) < len(values):
                raise UserError(f"{name}={list(values)}: expected each once.")
        self._require_one_origin()

    def _require_one_origin(self) -> None:
        """Refuse a suite that says twice, or not at all, where the held model comes from."""
        if not self.held:
            if named := [k for k in ("retrained", "given") if getattr(self, k)]:
                raise UserError(f"{named[0]} is for models that nothing was injected into; name the one that knows the memories: held=….")
            return
        if twice := [k for k in INJECTING if getattr(self, k) != getattr(Suite(), k)]:
            raise UserError(
                f"held={self.held}: that model knows the memories already, so {' and '.join(twice)} would change nothing. Leave "
                f"{'them' if twice[1:] else 'it'} out, or extend a suite that injects nothing, as tofu."
            )
        if len(self.seeds) > 1:
            raise UserError(f"seeds={list(self.seeds)}: expected one where held is set: another seed would ask the same model the same.")
        for name in self.given:
            PLAIN_WORD.validate(name, "given")
            if name in (*self.methods, BASE, HELD, TWIN, "retrain"):
                raise UserError(f"given.{name}: that name stands for another model; choose a different one.")


def suite_names() -> dict[str, str]:
    """Shipped suites and what they are for."""
    return {f.stem: str(read_yaml(f).get("doc", "")) for f in sorted(SUITES.glob("*.yaml"), key=lambda f: f.stem)}


def load_suite(name: str, overrides: Sequence[str] = ()) -> Suite:
    """Load a suite by name or path and apply `a.b=value` overrides.

    `method=X` runs only none, retrain (where the suite injects) and X; `attack=X` only prefix and X. X is a name, a dotted path or a file.
    """
    suite = _read(name)
    injects = not suite.get("held") and not any(item.startswith("held=") for item in overrides)
    for item in overrides:
        key, eq, value = item.partition("=")
        if not eq:
            raise UserError(f"{item!r} is not an override; expected field=value, for example per_role=16.")
        if key in ("method", "attack"):
            first = (["none", "retrain"] if injects else ["none"]) if key == "method" else ["prefix"]
            mine = suite.get(key + "s") or {}
            suite[key + "s"] = {p: mine.get(p, {}) for p in dict.fromkeys([*first, value])}
        else:
            suite = merged(suite, _override(key, value))
    for plugins in PLUGINS:
        if isinstance(given := suite.get(plugins), dict):
            suite[plugins] = {k: {} if v is None else v for k, v in given.items()}
    if suite.get("given", {}) is None:  # given=null: none of the rows from elsewhere that a suite names
        suite.pop("given")
    return build(Suite, suite, f"suite {suite.get('name', name)}")


def given_fields(kind: str, name: str, items: Sequence[str]) -> dict[str, Any]:
    """`field=value` items for a plug-in as values of its fields' types."""
    hints: dict[str, Any] = {f: hint for f, hint in typing.get_type_hints(find(kind, name).cls).items()}
    out: dict[str, Any] = {}
    for item in items:
        key, _, value = item.partition("=")
        out = merged(out, _nested(key.split("."), value, hints))
    return out


def _override(key: str, value: str) -> dict[str, Any]:
    """One override as fields within fields; the value is read by the type of the field that it is for."""
    first, dot, rest = key.partition(".")
    plugin = re.match(r"(?P<name>.*\.py(?::\w+)?|[\w.]+:\w+|\w+)\.(?P<field>\w+(?:\.\w+)*)$", rest)
    if first in PLUGINS and plugin:
        kind = "method" if first == "methods" else "attack"
        return {first: {plugin["name"]: given_fields(kind, plugin["name"], [f"{plugin['field']}={value}"])}}
    if first in PLUGINS and dot:
        return {first: {rest: read_value(value, dict[str, Any])}}
    return _nested(key.split("."), value, typing.get_type_hints(Suite))


def _nested(path: Sequence[str], value: str, hints: Mapping[str, Any]) -> dict[str, Any]:
    hint = hints.get(path[0], Any)
    if len(path) == 1:
        return {path[0]: read_value(value, hint)}
    inner = next((h for h in (hint, *typing.get_args(hint)) if is_dataclass(h)), None)
    return {path[0]: _nested(path[1:], value, typing.get_type_hints(inner) if inner else {})}


def _read(name: str, below: tuple[str, ...] = ()) -> dict[str, Any]:
    file = Path(name) if name.endswith((".yaml", ".yml")) else SUITES / f"{name}.yaml"
    if not file.is_file():
        if file.parent == SUITES:
            raise unknown("suite", name, suite_names())
        raise UserError(f"There is no suite file {name!r}.")
    own = read_yaml(file)
    if not isinstance(own, dict):
        raise UserError(f"{file} should hold fields (name: value), as configs/suites/quick.yaml does.")
    if name in below:
        raise UserError(f"{file} extends itself: {' → '.join((*below, name))}.")
    parent = own.pop("extends", None)
    own.setdefault("name", file.stem)
    if parent is None:
        return own
    base = _read(str(parent), (*below, name))
    for whole in (*PLUGINS, "given", "seeds", "strengths"):  # lists of what to run replace, they do not add up
        if whole in own:
            base.pop(whole, None)
    return merged(base, own)
