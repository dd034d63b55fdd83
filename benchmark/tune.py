"""Fair defaults: the same grid size for every method, a rule fixed beforehand, on roles and documents no table uses.

The rule sees only the exact opening and bits per byte: among the trials whose bits per byte are at most BUDGET worse
than the retrained twin's on the *validation* half, take the lowest exact rate, then the shortest mean matched length
after the exact opening, then the least damage. No attack that ranks methods is ever asked.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from .config import QualityConfig, Suite, plain
from .errors import UserError
from .pipeline import Run
from .plugins import find
from .probing import Reader
from .quality import QualityBench
from .store import Stage, Store
from .subject import Subject
from .types import HORIZON, Probe

BUDGET = 0.10  # bits per byte, relative to the twin; the held model itself is about 4% above it on pocket
TASK = "palimpsest_bits_per_byte"


def tuning_suite(suite: Suite, method: str) -> Suite:
    """The suite on another partition of the memories and on the validation half of the quality documents."""
    quality = QualityConfig(tasks=(TASK,), documents=suite.quality.documents, half="validation")
    return replace(suite, roles="tuning", seeds=(0,), quality=quality, methods={"none": {}, method: {}})


def tune(suite: Suite, method: str, store: Store, show: Callable[[str], Any], progress: Any) -> pd.DataFrame:
    """Try the method's declared grid; returns the trials, the chosen one first. Finished trials are kept in the store."""
    plugin = find("method", method)
    space: dict[str, tuple[Any, ...]] = getattr(plugin.cls, "search", {})
    if not space:
        raise UserError(f"method {method} declares no search space (a class variable `search`: field -> values); there is nothing to tune.")
    run = Run(tuning_suite(suite, method), store, progress)
    run.check()
    for stage in (run.held(0), run.twin(0)):
        store.run(stage)
    twin = _bits(run, Subject(store.folder(run.twin(0))))
    trials = []
    for values in itertools.product(*space.values()):
        stage = _trial(run, plugin, dict(zip(space, values, strict=True)))
        trial = json.loads((store.run(stage) / "trial.json").read_text())
        trial["damage"] = trial.pop("bits_per_byte") / twin - 1
        show(", ".join(f"{k} {v:.4g}" for k, v in trial.items()))
        trials.append(trial)
    return choose(pd.DataFrame(trials))


def choose(trials: pd.DataFrame) -> pd.DataFrame:
    """Sort by the rule: within the budget first, then exact rate, matched length, damage."""
    over = (trials.damage > BUDGET).rename("over")
    order = trials.assign(over=over).sort_values(["over", "exact", "matched", "damage"], kind="stable")
    return order.drop(columns="over").reset_index(drop=True)


def _trial(run: Run, plugin: Any, fields: dict[str, Any]) -> Stage:
    instance = plugin.make(fields)
    inputs = {"held": run.held(0).key, "source": plugin.source, "fields": plain(instance), "quality": plain(run.suite.quality)}
    label = f"{plugin.name} {fields}"

    def build(folder: Path) -> None:
        trainer = run.trainer(label, 0, run.store.scratch(stage))
        subject = instance.unlearn(Subject(run.store.folder(run.held(0))), run.data(0, instance.needs_history), trainer)
        exact = _exact(run, subject)
        found = {"exact": sum(n >= HORIZON for n in exact) / len(exact), "matched": sum(exact) / len(exact)}
        (folder / "trial.json").write_text(json.dumps({**fields, **found, "bits_per_byte": _bits(run, subject)}))

    stage = Stage("trial", label, inputs, build)
    return stage


def _exact(run: Run, subject: Subject) -> list[int]:
    """Matched lengths of the forget memories after the exact opening."""
    probes = [Probe(m.id, (), m.row, 0, (m.opening,), ("opening",), 0) for m in run.encoded(0) if m.role == "forget"]
    return [lengths[0] for lengths in Reader(subject, run.suite.precision).read(probes)]


def _bits(run: Run, subject: Any) -> float:
    bench: QualityBench = run.bench
    return next(m.value for m in bench.measure(subject) if m.task == TASK)
