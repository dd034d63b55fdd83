"""The attack stages of a run: tiers 0 and 1 in shared passes, the expensive tiers attack by attack, survivors only.

Thresholds come first from the held model and the retrained twin, which are asked everything (the null). With them a later
tier of any other model asks the fixed subset, and on top the memories that nothing cheaper had recovered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..attack_tools.bases import Attack, Prompting, Workshop
from ..battery.accepted import stand_ins
from ..battery.answers import read_answers, read_findings
from ..battery.one_attack import Task
from ..battery.shared_pass import Armed
from ..common.progress import within
from ..common.seeds import derive
from ..common.types import HELD, TWIN, EncodedMemory, Finding, Record, TokenReading
from ..common.versions import READER
from ..models.subject import Subject
from ..reading.cache import load_cache
from ..reading.readings import load_readings
from ..scoring.calibration import Calibration
from ..scoring.score import UNCHANGED, survivors
from ..texts.memories import memories_hash
from ..training.trainer import Trainer
from . import builders
from .model import Model
from .models import Models
from .store import Stage
from .who_is_asked import SHARED, WhoIsAsked
from .work import of_attack, of_battery, of_checks


class Attacking:
    """The attack stages of a run, and the records of those that are done."""

    def __init__(self, models: Models, who: WhoIsAsked):
        self.models = models
        self.suite = models.suite
        self.who = who

    def stages(self, model: Model) -> list[Stage]:
        """Every attack stage of one model, cheapest first; thresholds stand where they are first needed."""
        tiers = sorted({a.attack.tier for a in self.who.attacks})
        out = [self.battery(model, tier) for tier in tiers if tier <= SHARED]
        later = [a for a in self.who.attacks if a.attack.tier > SHARED]
        return [*out, *(self.single(model, a) for a in later), self.checks(model)]

    def battery(self, model: Model, tier: int) -> Stage:
        """One shared pass: every attack of tier 0 or 1 on one model, and what it says about each token of each memory."""
        armed = [a for a in self.who.attacks if a.attack.tier == tier and isinstance(a.attack, Prompting)]
        asked = [(a, self.who.asked(model, a.attack)) for a in armed]
        label = f"attacks of tier {tier} on {model.label}"
        inputs = self._inputs(model) | {"tier": tier, "attacks": [a.spec for a in armed], "who": self.suite.ask}
        inputs |= self._screening(model, tier)

        def build(folder: Path) -> builders.Facts:
            on_top = {a.name: self._survivors(model, a.attack) for a in armed}
            with self.models.loaded(model) as subject:
                return builders.shared_pass(
                    folder,
                    subject=subject,
                    probes=self.who.probes(model.seed),
                    asked=[(a, [*memories, *_without(on_top[a.name], memories)]) for a, memories in asked],
                    extra={m.id for found in on_top.values() for m in found},
                    tokens=model.memories if tier == 0 else None,
                    rows=self.rows(model, subject),
                    precision=self.suite.precision,
                    progress=within(label, self.models.progress),
                )

        return Stage(
            "battery", label, inputs, build, lambda: of_battery(self.who, self.models.where, asked, tier, model.seed), parallel=True
        )

    def rows(self, model: Model, subject: Subject) -> Path:
        """The side file of what a model was asked and answered: of these weights, with this tokenizer, by this reader."""
        return self.models.store.rows(model.key, f"{subject.hash} {subject.encoding} {READER}")

    def single(self, model: Model, armed: Armed) -> Stage:
        """One attack of the expensive tiers on one model."""
        label = f"{armed.name} on {model.label}"
        tier = armed.attack.tier
        memories = self.who.asked(model, armed.attack)
        inputs = self._inputs(model) | {
            "attack": armed.spec,
            "reasked": [a.spec for a in self.who.reasked],
            "who": self.suite.ask,
            "subset": self.suite.subset,
            "held": self.models.key(HELD, model.seed),
            "twin": self.models.key(TWIN, model.seed),
            "device": self.models.device_kind,
            "deepspeed": self.models.deepspeed,
            "precision": self.models.precision,
        }
        inputs |= self._screening(model, tier)
        many = len(memories) + len(stand_ins(armed.attack, memories))
        if stand_ins(armed.attack, model.memories):
            inputs["accepted"] = "searched"  # so named since searches look for accepted answers too; keys of passages are what they were

        def build(folder: Path) -> builders.Facts:
            scored = [*memories, *_without(self._survivors(model, armed.attack), memories)]
            with self.models.loaded(model) as subject:
                tools, probes = self.workshop(model, label), self.who.probes(model.seed)
                progress = within(f"{label}: ", self.models.progress)
                known = load_cache(self.rows(model, subject)) if armed.name == UNCHANGED else {}
                return builders.attacked(
                    folder,
                    label=label,
                    subject=subject,
                    task=Task(armed, scored, model.memories, tools, probes, self.who.reasked, known, progress),
                    extra=self.who.extra(scored, model.seed),
                    precision=self.models.precision,
                )

        return Stage("attack", label, inputs, build, lambda: of_attack(self.who, self.models.where, armed, many, model.seed), parallel=True)

    def checks(self, model: Model) -> Stage:
        """Facts that flags need: is the output stochastic, does generation agree with reading, how small is the update."""
        inputs = self._inputs(model) | {"held": self.models.key(HELD, model.seed), "subset": self.suite.subset}

        def build(folder: Path) -> None:
            self.models.progress(f"checks of {model.name}", 0, 1)
            few = [m for m in model.memories if m.role == "forget" and m.id in self.who.fixed(model.seed)]
            held = self.models.subject(self.models.model(HELD, model.seed))
            with self.models.loaded(model) as subject:
                builders.checked(folder, subject=subject, held=held, memories=few, precision=self.suite.precision)

        return Stage("checks", f"checks of {model.label}", inputs, build, lambda: of_checks(self.models.where, self.suite.subset))

    @cached_property
    def thresholds(self) -> Stage:
        """What counts as recovered at each access level, from the null of all seeds."""
        null = [s for seed in self.suite.seeds for m in self.models.nulls for s in self.stages(self.models.model(m, seed))]
        inputs = {"null": [s.key for s in null], "subset": self.suite.subset}

        def build(folder: Path) -> None:
            models = [self.models.model(m, seed) for seed in self.suite.seeds for m in self.models.nulls]
            records = (r for model in models for r in self.records(model))
            builders.thresholds(folder, null=records, twin=TWIN, diagnostics=self.who.diagnostics)

        return Stage("thresholds", "thresholds from the null", inputs, build)

    def records(self, model: Model, stages: Sequence[Stage] | None = None) -> Iterator[Record]:
        """Records of finished stages of one model (all of them by default)."""
        roles = {m.id: m for m in model.memories}
        asked = {a.name: a.attack.asks for a in self.who.attacks}
        for stage in self.stages(model) if stages is None else stages:
            for a in read_answers(self.models.store.ensure(stage)):
                m = roles[a.memory]
                asks = asked[a.attack].get(a.variant, asked[a.attack].get("", ""))
                yield Record(self.suite.name, model.name, model.seed, model.key, role=m.role, shown=m.shown, asks=asks, **vars(a))

    def findings(self, model: Model) -> Iterator[tuple[str, str, int, Finding]]:
        """(attack, access, tier, finding) of every finished stage of one model."""
        for armed in (a for a in self.who.attacks if a.attack.tier > SHARED):
            for found in read_findings(self.models.store.ensure(self.single(model, armed))):
                yield armed.name, armed.attack.access, armed.attack.tier, found
        for found in read_findings(self.models.store.ensure(self.checks(model))):
            yield "checks", "white-box", 0, found

    def readings(self, model: Model) -> dict[str, TokenReading]:
        """What a model says about each token of each memory; empty if the suite has no attack of tier 0."""
        if not any(a.attack.tier == 0 for a in self.who.attacks):
            return {}
        return load_readings(self.models.store.ensure(self.battery(model, 0)) / "tokens.safetensors")

    def workshop(self, model: Model, label: str) -> Workshop:
        """What a searching or tampering attack may use on this model."""
        models, s, seed = self.models, self.suite, model.seed

        def trainer(purpose: str) -> Trainer:
            progress = within(f"{label}, {purpose}", models.progress)
            return Trainer(models.precision, s.deepspeed, derive(seed, "attack training", purpose), None, progress)

        return Workshop(
            models.base,
            derive(seed, "attacks"),
            self.who.known(seed),
            retain=models.stream(seed).retain.row,
            trainer=trainer,
            tokens=self.readings(model),
            precision=s.precision,
            held=models.subject(models.model(HELD, seed)),
            twin=models.subject(models.model(TWIN, seed)) if models.twins else None,
        )

    def _inputs(self, model: Model) -> dict[str, Any]:
        s = self.suite
        return {
            "model": model.key,
            "base": self.models.base.hash,
            "tokenizer": self.models.base.encoding,
            "memories": memories_hash(self.models.memories),
            "row": s.row,
            "per_role": s.per_role,
            "roles": s.roles,
            "seed": model.seed,
            "as": model.name if model.null else "",
            **self.models.off_cpu,
            **(self.models.since(model.seed) if s.held else {}),  # else the models' keys tell it
        }

    def _screening(self, model: Model, tier: int) -> dict[str, Any]:
        """Part of a key: the thresholds and cheaper stages that decide who survives."""
        if not self.who.screened(model.name, tier):
            return {}
        return {"thresholds": self.thresholds.key, "cheaper": [s.key for s in self._cheaper(model, tier)]}

    def _cheaper(self, model: Model, tier: int) -> list[Stage]:
        shared = [self.battery(model, t) for t in sorted({a.attack.tier for a in self.who.attacks}) if t < tier and t <= SHARED]
        return shared + [self.single(model, a) for a in self.who.attacks if SHARED < a.attack.tier < tier]

    def _survivors(self, model: Model, attack: Attack) -> list[EncodedMemory]:
        """Forget memories for which this attack can still change the worst case, in the order of the subset."""
        if not self.who.screened(model.name, attack.tier) or attack.diagnostic:
            return []
        file = self.models.store.ensure(self.thresholds) / "thresholds.json"
        calibrations = {k: Calibration.from_dict(v) for k, v in json.loads(file.read_text()).items()}
        known = list(self.records(model, self._cheaper(model, attack.tier)))
        forget = [m for m in model.memories if m.role == "forget" and m.memory.kind in attack.kinds]
        alive = survivors([m.id for m in forget], known, calibrations, attack.access)
        return [m for m in forget if m.id in alive]


def _without(memories: Sequence[EncodedMemory], there: Sequence[EncodedMemory]) -> list[EncodedMemory]:
    ids = {m.id for m in there}
    return [m for m in memories if m.id not in ids]
