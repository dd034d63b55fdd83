"""The attack stages of a run: tiers 0 and 1 in shared passes, the expensive tiers attack by attack, survivors only.

Thresholds come first from the held model and the retrained twin, which are asked everything (the null). With them a later
tier of any other model asks the fixed subset, and on top the memories that nothing cheaper had recovered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from ..attack_tools.bases import Attack, Prompting, Workshop
from ..battery.answers import read_answers, read_findings, write_answers
from ..battery.checks import run_checks
from ..battery.one_attack import Task, attack_once
from ..battery.shared_pass import Armed, run_battery
from ..common.guard import untouched
from ..common.processes import device, is_main
from ..common.seeds import derive
from ..common.types import HELD, TWIN, EncodedMemory, Record, TokenReading
from ..common.versions import READER
from ..models.subject import Subject
from ..reading.reader import load_cache, save_cache
from ..reading.readings import load_readings, save_readings
from ..scoring.score import Calibration, Score, survivors
from ..texts.memories import memories_hash
from ..training.trainer import Trainer
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

    def stages(self, method: str, seed: int) -> list[Stage]:
        """Every attack stage of one model, cheapest first; thresholds stand where they are first needed."""
        tiers = sorted({a.attack.tier for a in self.who.attacks})
        out = [self.battery(method, seed, tier) for tier in tiers if tier <= SHARED]
        later = [a for a in self.who.attacks if a.attack.tier > SHARED]
        return [*out, *(self.single(method, seed, a) for a in later), self.checks(method, seed)]

    def battery(self, method: str, seed: int, tier: int) -> Stage:
        """One shared pass: every attack of tier 0 or 1 on one model, and what it says about each token of each memory."""
        armed = [a for a in self.who.attacks if a.attack.tier == tier and isinstance(a.attack, Prompting)]
        asked = [(a, self.who.asked(method, seed, a.attack)) for a in armed]
        label = f"attacks of tier {tier} on {method}, seed {seed}"
        inputs = self._inputs(method, seed) | {"tier": tier, "attacks": [a.spec for a in armed], "who": self.suite.ask}
        inputs |= self._screening(method, seed, tier)

        def build(folder: Path) -> dict[str, Any]:
            on_top = {a.name: self._survivors(method, seed, a.attack) for a in armed}
            everyone = [(a, [*memories, *_without(on_top[a.name], memories)]) for a, memories in asked]
            with self.models.loaded(method, seed) as subject:
                rows = self.rows(method, seed, subject)
                out = run_battery(
                    subject, self.who.probes(seed), everyone, self.suite.precision,
                    lambda done, of: self.models.progress(label, done, of), self.models.encoded(seed) if tier == 0 else (), load_cache(rows),
                )  # fmt: skip
            if is_main():
                save_cache(rows, out.cache)
                if tier == 0:
                    save_readings(folder / "tokens.safetensors", out.readings)
            write_answers(folder, out.answers, [], {m.id for found in on_top.values() for m in found})
            return out.facts

        return Stage("battery", label, inputs, build, lambda: of_battery(self.who, self.models.where, asked, tier, seed), parallel=True)

    def rows(self, method: str, seed: int, subject: Subject) -> Path:
        """The side file of what a model was asked and answered: of these weights, with this tokenizer, by this reader."""
        return self.models.store.rows(self.models.model_key(method, seed), f"{subject.hash} {subject.encoding} {READER}")

    def single(self, method: str, seed: int, armed: Armed) -> Stage:
        """One attack of the expensive tiers on one model."""
        label = f"{armed.name} on {method}, seed {seed}"
        tier = armed.attack.tier
        memories = self.who.asked(method, seed, armed.attack)
        inputs = self._inputs(method, seed) | {
            "attack": armed.spec, "reasked": [a.spec for a in self.who.reasked], "who": self.suite.ask, "subset": self.suite.subset,
            "held": self.models.held(seed).key, "twin": self.models.twin(seed).key, "device": device().type,
            "deepspeed": self.models.deepspeed, "precision": self.models.precision,
        }  # fmt: skip
        inputs |= self._screening(method, seed, tier)

        def build(folder: Path) -> dict[str, Any]:
            scored = [*memories, *_without(self._survivors(method, seed, armed.attack), memories)]
            with self.models.loaded(method, seed) as subject:
                task = Task(
                    armed, scored, self.models.encoded(seed), self.workshop(method, seed, label), self.who.probes(seed), self.who.reasked,
                    lambda text: self.models.progress(f"{label}: {text}", 0, 1),
                )  # fmt: skip
                models = (subject, task.tools.base, task.tools.held, task.tools.twin)
                with untouched(label, *{s.folder for s in models if s}):
                    attack_once(task, subject)
            write_answers(folder, task.answers, [asdict(f) for f in task.findings], self.who.extra(scored, seed))
            return {"memories": len(scored), "precision": self.models.precision}

        return Stage(
            "attack", label, inputs, build, lambda: of_attack(self.who, self.models.where, armed, len(memories), seed), parallel=True
        )

    def checks(self, method: str, seed: int) -> Stage:
        """Facts that flags need: is the output stochastic, does generation agree with reading, how small is the update."""
        inputs = self._inputs(method, seed) | {"held": self.models.held(seed).key, "subset": self.suite.subset}

        def build(folder: Path) -> None:
            self.models.progress(f"checks of {method}", 0, 1)
            few = [m for m in self.models.encoded(seed) if m.role == "forget" and m.id in self.who.fixed(seed)]
            held = self.models.subject(HELD, seed)
            with self.models.loaded(method, seed) as subject:
                found = run_checks(subject, held, few, self.suite.precision)
            write_answers(folder, [], [asdict(f) for f in found], set())

        return Stage("checks", f"checks of {method}, seed {seed}", inputs, build, lambda: of_checks(self.models.where, self.suite.subset))

    @cached_property
    def thresholds(self) -> Stage:
        """What counts as recovered at each access level, from the null of all seeds."""
        null = [s for seed in self.suite.seeds for m in (HELD, TWIN) for s in self.stages(m, seed)]
        inputs = {"null": [s.key for s in null], "subset": self.suite.subset}

        def build(folder: Path) -> None:
            records = [r for seed in self.suite.seeds for m in (HELD, TWIN) for r in self.records(m, seed)]
            found = Score(records, TWIN, self.who.diagnostics).calibrations
            (folder / "thresholds.json").write_text(json.dumps({k: c.as_dict() for k, c in found.items()}, indent=1) + "\n")

        return Stage("thresholds", "thresholds from the null", inputs, build)

    def records(self, method: str, seed: int, stages: Sequence[Stage] | None = None) -> Iterator[Record]:
        """Records of finished stages of one model (all of them by default)."""
        roles = {m.id: m for m in self.models.encoded(seed)}
        key = self.models.model_key(method, seed)
        asked = {a.name: a.attack.asks for a in self.who.attacks}
        for stage in self.stages(method, seed) if stages is None else stages:
            for row in read_answers(self.models.store.run(stage)):
                m = roles[row["memory"]]
                asks = asked[row["attack"]].get(row["variant"], asked[row["attack"]].get("", ""))
                yield Record(self.suite.name, method, seed, key, role=m.role, shown=m.shown, asks=asks, **row)

    def findings(self, method: str, seed: int) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
        """(attack, access, tier, finding) of every finished stage of one model."""
        for armed in (a for a in self.who.attacks if a.attack.tier > SHARED):
            for row in read_findings(self.models.store.run(self.single(method, seed, armed))):
                yield armed.name, armed.attack.access, armed.attack.tier, row
        for row in read_findings(self.models.store.run(self.checks(method, seed))):
            yield "checks", "white-box", 0, row

    def readings(self, method: str, seed: int) -> dict[str, TokenReading]:
        """What a model says about each token of each memory; empty if the suite has no attack of tier 0."""
        if not any(a.attack.tier == 0 for a in self.who.attacks):
            return {}
        return load_readings(self.models.store.run(self.battery(method, seed, 0)) / "tokens.safetensors")

    def workshop(self, method: str, seed: int, label: str) -> Workshop:
        """What a searching or tampering attack may use on this model."""
        models, s = self.models, self.suite

        def trainer(purpose: str) -> Trainer:
            def show(step: int, of: int, values: dict[str, float]) -> None:
                models.progress(f"{label}, {purpose}", step, of)

            return Trainer(models.precision, s.deepspeed, derive(seed, "attack training", purpose), None, show)

        return Workshop(
            models.base, derive(seed, "attacks"), self.who.known(seed), retain=models.stream(seed).retain.row, trainer=trainer,
            tokens=self.readings(method, seed), held=models.subject(HELD, seed), twin=models.subject(TWIN, seed), precision=s.precision,
        )  # fmt: skip

    def _inputs(self, method: str, seed: int) -> dict[str, Any]:
        s = self.suite
        return {
            "model": self.models.model_key(method, seed), "base": self.models.base.hash, "tokenizer": self.models.base.encoding,
            "memories": memories_hash(self.models.memories),
            "row": s.row, "per_role": s.per_role, "roles": s.roles, "seed": seed,
            "as": method if method in (HELD, TWIN) else "",
        }  # fmt: skip

    def _screening(self, method: str, seed: int, tier: int) -> dict[str, Any]:
        """Part of a key: the thresholds and cheaper stages that decide who survives."""
        if not self.who.screened(method, tier):
            return {}
        return {"thresholds": self.thresholds.key, "cheaper": [s.key for s in self._cheaper(method, seed, tier)]}

    def _cheaper(self, method: str, seed: int, tier: int) -> list[Stage]:
        shared = [self.battery(method, seed, t) for t in sorted({a.attack.tier for a in self.who.attacks}) if t < tier and t <= SHARED]
        return shared + [self.single(method, seed, a) for a in self.who.attacks if SHARED < a.attack.tier < tier]

    def _survivors(self, method: str, seed: int, attack: Attack) -> list[EncodedMemory]:
        """Forget memories for which this attack can still change the worst case, in the order of the subset."""
        if not self.who.screened(method, attack.tier) or attack.diagnostic:
            return []
        file = self.models.store.run(self.thresholds) / "thresholds.json"
        calibrations = {k: Calibration.from_dict(v) for k, v in json.loads(file.read_text()).items()}
        known = list(self.records(method, seed, self._cheaper(method, seed, attack.tier)))
        forget = [m for m in self.models.encoded(seed) if m.role == "forget"]
        alive = survivors([m.id for m in forget], known, calibrations, attack.access)
        return [m for m in forget if m.id in alive]


def _without(memories: Sequence[EncodedMemory], there: Sequence[EncodedMemory]) -> list[EncodedMemory]:
    ids = {m.id for m in there}
    return [m for m in memories if m.id not in ids]
