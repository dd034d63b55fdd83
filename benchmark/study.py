"""What a study is: stages in the store like everything else, and a pure function from their rows to tables, figures and verdicts."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from ..leaderboard.study_results import Found
from .common.errors import UserError, unknown
from .common.fields import plain
from .common.limits import SOME, Count, CountOrZero, one_of
from .common.lines import json_lines, write_lines
from .common.plugins import STAGES, Plugin, find
from .common.progress import Progress, silent
from .common.versions import READER, VERSIONS
from .models.opening import shipped_models
from .running.plan import Run
from .running.store import Stage, Store, canonical
from .suites.config import InjectionConfig, Suite, load_suite

ROWS = "rows.jsonl"


@dataclass(frozen=True)
class Study(ABC):
    """A finding measured again. A plug-in is a frozen dataclass; its fields say on what, and how much of it.

    `model`, `memories`, `per_role`, `row` and `seeds` mean what they mean in a suite.
    """

    model: str = "pocket"
    memories: str = "passages"
    per_role: Count = 64
    row: Count = 160
    seeds: Annotated[tuple[CountOrZero, ...], SOME] = (0, 1, 2)
    precision: Annotated[str, one_of("auto", "bf16", "fp32")] = "auto"

    question: ClassVar[str] = ""  # what it answers, in one line
    paper: ClassVar[str] = ""  # who found it
    address: ClassVar[str] = ""
    forms: ClassVar[Mapping[str, Mapping[str, Any]]] = {"pocket": {}}  # fields by form; `fast` takes seconds and proves nothing

    @abstractmethod
    def stages(self, lab: Lab) -> Iterable[Stage]:
        """All that is to be made, in an order in which each finds its inputs done: models of `lab.run`s and `lab.measurement`s."""

    @abstractmethod
    def found(self, lab: Lab) -> Found:
        """Tables, figures and verdicts from the rows of finished measurements. It must give the same for the same rows."""


@dataclass
class Lab:
    """A study bound to a store: runs whose models it reads, and its own measurements."""

    study: Study
    name: str
    source: str  # hash of the study's code
    store: Store
    progress: Progress = silent
    asked: str | None = None  # the model that was asked for in so many words, which some stage must read
    _runs: dict[str, Run] = field(default_factory=dict, init=False, repr=False)

    def run(self, methods: Mapping[str, Mapping[str, Any]] | None = None, **changes: Any) -> Run:
        """A run on the study's model and memories, with the pocket suite's injection; `changes` are fields of a suite.

        Its held models and twins are those of every suite with the same fields, so they are shared with suites in one store.
        `injection` may be a mapping of what differs. Ask for `run.held(seed)`, `run.twin(seed)` and `run.model(name, seed).stage`.
        """
        s = self.study
        own = {k: getattr(s, k) for k in ("model", "memories", "per_role", "row", "seeds", "precision")}
        injection = changes.pop("injection", {})
        base = load_suite("pocket")
        suite: Suite = replace(base, **(own | {"methods": {"none": {}, **(methods or {})}} | changes))
        if not isinstance(injection, InjectionConfig):
            injection = replace(suite.injection, **injection)
        suite = replace(suite, injection=injection)
        key = canonical(plain(suite))
        if key not in self._runs:
            self._runs[key] = Run(suite, self.store, self.progress)
        return self._runs[key]

    def measurement(self, label: str, inputs: Mapping[str, Any], rows: Callable[[], Iterable[Mapping[str, Any]]]) -> Stage:
        """A stage of kind `study` that holds `rows()`: plain values, none of them NaN (None where nothing was measured).

        `inputs` must say all that the rows depend on beside the study's code: keys of the models, and the fields that are read.
        """
        versions = {k: VERSIONS[k] for k in STAGES["study"]} | {"reader": READER}
        whole = {"study": self.name, "source": self.source, "versions": versions, **inputs}

        def build(folder: Path) -> None:
            self.progress(label, 0, 1)
            write_lines(folder / ROWS, [_plain(row, label) for row in rows()])

        return Stage("study", label, whole, build)

    def rows(self, stage: Stage) -> list[dict[str, Any]]:
        """The rows of a finished measurement."""
        return [row for _, row in json_lines(self.store.ensure(stage) / ROWS)]

    @property
    def stages(self) -> list[Stage]:
        """Every stage once, in order. A model that was asked for and that none of them reads is refused."""
        found = list({(s.kind, s.key): s for s in self.study.stages(self)}.values())
        read = {run.suite.model + (f"@{run.suite.revision}" if run.suite.revision else "") for run in self._runs.values()}
        if self.asked is not None and self.asked not in read:
            others = "the models that it names" if self._runs else "no model of ours"
            raise UserError(f"{self.name}: model={self.asked} is read by no stage, since this study reads {others}; leave it out.")
        return found

    def execute(self, started: Callable[[Stage], Any] = lambda stage: None, finished: Callable[[Stage], Any] = lambda stage: None) -> Found:
        """Make what is not done, then say what was found. An interrupted study continues."""
        for stage in self.stages:
            if not self.store.done(stage):
                started(stage)
                self.store.ensure(stage)
                finished(stage)
        return self.study.found(self)

    @property
    def seconds(self) -> float:
        """What its finished stages took, by their manifests."""
        return sum(self.store.manifest(s)["seconds"] for s in self.stages if self.store.done(s))


def lab(name: str, given: Mapping[str, Any], store: Store, form: str = "pocket", progress: Progress = silent) -> Lab:
    """A study by name, with the fields of a form and then those that were given."""
    plugin = find("study", name)
    return Lab(made(plugin, given, form), plugin.name, plugin.source, store, progress, given.get("model"))


def made(plugin: Plugin, given: Mapping[str, Any], form: str) -> Study:
    """The study itself. With a model of one's own, no other field may go on naming models that are not."""
    forms = plugin.cls.forms
    if form not in forms:
        raise unknown(f"form of the study {plugin.name}", form, forms)
    study: Study = plugin.make({**forms[form], **given})
    if "model" in given and given["model"] != {**plugin.defaults, **forms[form]}["model"]:
        left = {n: v for n in other_models(plugin) if n not in given and (v := getattr(study, n))}
        if left:
            still = " and ".join(f"{n}={v if isinstance(v, str) else list(v)}" for n, v in left.items())
            give = " ".join(f"{n}=…" for n in left)
            none = ", [] for none" if any(not isinstance(v, str) for v in left.values()) else ""
            raise UserError(
                f"{plugin.name}: with model={study.model}, {still} would still be read beside it. Say which models should be: {give}"
                f" (of one tokenizer{none})."
            )
    return study


def other_models(plugin: Plugin) -> list[str]:
    """Fields beside `model` that name models, by their defaults: each is, or lists, models that are shipped."""
    ours = {name.partition("/")[0] for name in shipped_models()}
    found = []
    for name, value in plugin.defaults.items():
        values = [value] if isinstance(value, str) else value if isinstance(value, tuple) else ()
        if name != "model" and values and all(isinstance(v, str) and v.partition("/")[0] in ours for v in values):
            found.append(name)
    return found


def _plain(row: Mapping[str, Any], label: str) -> Mapping[str, Any]:
    """A row that JSON can hold; what is not finite is refused, since it would be read as a number."""
    for name, value in row.items():
        for v in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
            if isinstance(v, float) and not math.isfinite(v):
                raise UserError(f"{label}: {name} is {v} in {json.dumps({k: str(x)[:40] for k, x in row.items()})}; nothing was kept.")
    return row
