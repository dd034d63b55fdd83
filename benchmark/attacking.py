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
from typing import TYPE_CHECKING, Any

from .answers import read_answers, read_findings, write_answers
from .attack import Attack, Membership, Prompting, Tampering, Tools, Workshop
from .battery import Armed, Probes, arm, run_battery
from .checks import run_checks
from .engine import device, is_main
from .errors import UserError
from .expensive import Task, attack_once
from .guard import untouched
from .memories import memories_hash
from .probing import load_known, save_known
from .readings import load_readings, save_readings
from .sample import subset
from .scoring import FEWEST_NULL, HELD, UNCHANGED, Calibration, Score, survivors
from .seeds import derive
from .store import Stage
from .subject import Subject
from .trainer import Trainer
from .types import EncodedMemory, Record, TokenReading
from .versions import READER
from .work import of_attack, of_battery, of_checks

if TYPE_CHECKING:
    from .pipeline import Run

TWIN = "twin"
SHARED = 1  # the last tier whose attacks share passes


class Attacking:
    """What a run does with attacks. Everything is computed when first needed."""

    def __init__(self, run: Run):
        self.run = run
        self.suite = run.suite
        self._cache: dict[Any, Any] = {}

    @cached_property
    def attacks(self) -> list[Armed]:
        armed = arm(self.suite.attacks)
        if any(isinstance(a.attack, Tampering) for a in armed) and UNCHANGED not in self.suite.attacks:
            armed = arm(self.suite.attacks | {UNCHANGED: {}})
        return armed

    @cached_property
    def reasked(self) -> list[Armed]:
        """The prompting attacks that a changed model is asked with: the suite's `reasked`, or its own of tiers 0 and 1."""
        own = {a.name: a.given for a in self.attacks if a.attack.tier <= SHARED and a.attack.access == "black-box"}
        return [a for a in arm(self.suite.reasked or own) if isinstance(a.attack, Prompting)]

    def stages(self, method: str, seed: int) -> list[Stage]:
        """Every attack stage of one model, cheapest first; thresholds stand where they are first needed."""
        tiers = sorted({a.attack.tier for a in self.attacks})
        out = [self.battery(method, seed, tier) for tier in tiers if tier <= SHARED]
        later = [a for a in self.attacks if a.attack.tier > SHARED]
        return [*out, *(self.single(method, seed, a) for a in later), self.checks(method, seed)]

    # ---- who is asked

    @property
    def possible(self) -> bool:
        """Whether the null is large enough for thresholds, and so for survivors."""
        sizes = [sum(m.role == "unseen" for m in self.run.encoded(s)) * 2 + self._count(s, "forget") for s in self.suite.seeds]
        return sum(sizes) >= FEWEST_NULL

    @property
    def needs_thresholds(self) -> bool:
        return any(self.screened(m, a.attack.tier) for m in self.suite.methods for a in self.attacks)

    def screened(self, method: str, tier: int) -> bool:
        """Whether a model's survivors of the cheaper tiers decide who is asked in this tier."""
        first = {"all": 99, "subset": SHARED + 1, "worst": 1}[self.suite.ask]
        return tier >= first and method not in (HELD, TWIN) and self.possible

    def asked(self, method: str, seed: int, attack: Attack) -> list[EncodedMemory]:
        """The memories that one attack is asked about on one model whatever came before, so without survivors."""
        null = method in (HELD, TWIN)
        roles = {"forget", "unseen"} if null else {"forget"}
        everyone = self.run.encoded(seed)
        chosen = [m for m in everyone if m.role in roles]
        if isinstance(attack, Prompting) and (attack.everyone or attack.asks_exactly):
            return everyone
        if self.screened(method, attack.tier) and self.suite.ask == "worst" and not attack.diagnostic:
            return []
        if attack.tier <= SHARED:
            return chosen
        few = self.fixed(seed)
        return [m for m in chosen if m.id in few or self._beyond(method, m.role, attack)]

    def _beyond(self, method: str, role: str, attack: Attack) -> bool:
        """Whether a role is asked beyond the subset by an expensive attack, though nothing depends on what came before.

        The null is asked alike however the methods are asked, so thresholds are the same: all of it in tier 2; in tier 3 only the
        forget memories on the twin, beside which the survivors of others stand.
        """
        if method != TWIN and role == "forget":
            return self.suite.ask == "all"
        if attack.diagnostic:
            return False
        return attack.tier == SHARED + 1 or (method == TWIN and role == "forget" and self.possible)

    def _extra(self, scored: Sequence[EncodedMemory], seed: int) -> set[str]:
        """Ids of memories that an expensive attack is not asked about on every model alike: outside the subset; with ask=worst all."""
        alike = {"all": {m.id for m in scored}, "subset": self.fixed(seed), "worst": set()}[self.suite.ask]
        return {m.id for m in scored} - alike

    def fixed(self, seed: int) -> set[str]:
        """Ids of the fixed stratified subset of a seed."""
        return self._once(("fixed", seed), lambda: subset(self.run.encoded(seed), self.suite.subset))

    # ---- stages

    def battery(self, method: str, seed: int, tier: int) -> Stage:
        """One shared pass: every attack of tier 0 or 1 on one model, and what it says about each token of each memory."""
        armed = [a for a in self.attacks if a.attack.tier == tier and isinstance(a.attack, Prompting)]
        asked = [(a, self.asked(method, seed, a.attack)) for a in armed]
        label = f"attacks of tier {tier} on {method}, seed {seed}"
        inputs = self._inputs(method, seed) | {"tier": tier, "attacks": [a.spec for a in armed], "who": self.suite.ask}
        inputs |= self._screening(method, seed, tier)

        def build(folder: Path) -> dict[str, Any]:
            on_top = {a.name: self._survivors(method, seed, a.attack) for a in armed}
            everyone = [(a, [*memories, *_without(on_top[a.name], memories)]) for a, memories in asked]
            with self.run.loaded(method, seed) as subject:
                rows = self.rows(method, seed, subject)
                out = run_battery(
                    subject, self.probes(seed), everyone, self.suite.precision,
                    lambda done, of: self.run.progress(label, done, of), self.run.encoded(seed) if tier == 0 else (), load_known(rows),
                )  # fmt: skip
            if is_main():
                save_known(rows, out.learnt)
                if tier == 0:
                    save_readings(folder / "tokens.safetensors", out.readings)
            write_answers(folder, out.answers, [], {m.id for found in on_top.values() for m in found})
            return out.facts

        return Stage("battery", label, inputs, build, lambda: of_battery(self.run, asked, tier, seed), parallel=True)

    def rows(self, method: str, seed: int, subject: Subject) -> Path:
        """The side file of what a model was asked and answered: of these weights, with this tokenizer, by this reader."""
        return self.run.store.rows(self.run.model_key(method, seed), f"{subject.hash} {subject.encoding} {READER}")

    def single(self, method: str, seed: int, armed: Armed) -> Stage:
        """One attack of the expensive tiers on one model."""
        label = f"{armed.name} on {method}, seed {seed}"
        tier = armed.attack.tier
        memories = self.asked(method, seed, armed.attack)
        inputs = self._inputs(method, seed) | {
            "attack": armed.spec, "reasked": [a.spec for a in self.reasked], "who": self.suite.ask, "subset": self.suite.subset,
            "held": self.run.held(seed).key, "twin": self.run.twin(seed).key, "device": device().type,
            "deepspeed": self.run.deepspeed, "precision": self.run.precision,
        }  # fmt: skip
        inputs |= self._screening(method, seed, tier)

        def build(folder: Path) -> dict[str, Any]:
            scored = [*memories, *_without(self._survivors(method, seed, armed.attack), memories)]
            with self.run.loaded(method, seed) as subject:
                task = Task(
                    armed, scored, self.run.encoded(seed), self.workshop(method, seed, label), self.probes(seed), self.reasked,
                    lambda text: self.run.progress(f"{label}: {text}", 0, 1),
                )  # fmt: skip
                models = (subject, task.tools.base, task.tools.held, task.tools.twin)
                with untouched(label, *{s.folder for s in models if s}):
                    attack_once(task, subject)
            write_answers(folder, task.answers, [asdict(f) for f in task.findings], self._extra(scored, seed))
            return {"memories": len(scored), "precision": self.run.precision}

        return Stage("attack", label, inputs, build, lambda: of_attack(self.run, armed, len(memories), seed), parallel=True)

    def checks(self, method: str, seed: int) -> Stage:
        """Facts that flags need: is the output stochastic, does generation agree with reading, how small is the update."""
        inputs = self._inputs(method, seed) | {"held": self.run.held(seed).key, "subset": self.suite.subset}

        def build(folder: Path) -> None:
            self.run.progress(f"checks of {method}", 0, 1)
            few = [m for m in self.run.encoded(seed) if m.role == "forget" and m.id in self.fixed(seed)]
            held = self.run.subject(HELD, seed)
            with self.run.loaded(method, seed) as subject:
                found = run_checks(subject, held, few, self.suite.precision)
            write_answers(folder, [], [asdict(f) for f in found], set())

        return Stage("checks", f"checks of {method}, seed {seed}", inputs, build, lambda: of_checks(self.run, self.suite.subset))

    @cached_property
    def thresholds(self) -> Stage:
        """What counts as recovered at each access level, from the null of all seeds."""
        null = [s for seed in self.suite.seeds for m in (HELD, TWIN) for s in self.stages(m, seed)]
        inputs = {"null": [s.key for s in null], "subset": self.suite.subset}

        def build(folder: Path) -> None:
            records = [r for seed in self.suite.seeds for m in (HELD, TWIN) for r in self.records(m, seed)]
            found = Score(records, TWIN, self.diagnostics).calibrations
            (folder / "thresholds.json").write_text(json.dumps({k: c.as_dict() for k, c in found.items()}, indent=1) + "\n")

        return Stage("thresholds", "thresholds from the null", inputs, build)

    # ---- results of finished stages

    def records(self, method: str, seed: int, stages: Sequence[Stage] | None = None) -> Iterator[Record]:
        """Records of finished stages of one model (all of them by default)."""
        roles = {m.id: m for m in self.run.encoded(seed)}
        key = self.run.model_key(method, seed)
        asked = {a.name: a.attack.asks for a in self.attacks}
        for stage in self.stages(method, seed) if stages is None else stages:
            for row in read_answers(self.run.store.run(stage)):
                m = roles[row["memory"]]
                asks = asked[row["attack"]].get(row["variant"], asked[row["attack"]].get("", ""))
                yield Record(self.suite.name, method, seed, key, role=m.role, shown=m.shown, asks=asks, **row)

    def findings(self, method: str, seed: int) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
        """(attack, access, tier, finding) of every finished stage of one model."""
        for armed in (a for a in self.attacks if a.attack.tier > SHARED):
            for row in read_findings(self.run.store.run(self.single(method, seed, armed))):
                yield armed.name, armed.attack.access, armed.attack.tier, row
        for row in read_findings(self.run.store.run(self.checks(method, seed))):
            yield "checks", "white-box", 0, row

    def readings(self, method: str, seed: int) -> dict[str, TokenReading]:
        """What a model says about each token of each memory; empty if the suite has no attack of tier 0."""
        if not any(a.attack.tier == 0 for a in self.attacks):
            return {}
        return load_readings(self.run.store.run(self.battery(method, seed, 0)) / "tokens.safetensors")

    @property
    def diagnostics(self) -> tuple[str, ...]:
        return tuple(a.name for a in self.attacks if a.attack.diagnostic)

    @property
    def memberships(self) -> list[tuple[str, Membership]]:
        return [(a.name, a.attack) for a in self.attacks if isinstance(a.attack, Membership)]

    # ---- what attacks are given

    def probes(self, seed: int) -> Probes:
        return self._once(("probes", seed), lambda: Probes(Tools(self.run.base, derive(seed, "attacks"), self._known(seed))))

    def workshop(self, method: str, seed: int, label: str) -> Workshop:
        """What a searching or tampering attack may use on this model."""
        run, s = self.run, self.suite

        def trainer(purpose: str) -> Trainer:
            def show(step: int, of: int, values: dict[str, float]) -> None:
                run.progress(f"{label}, {purpose}", step, of)

            return Trainer(run.precision, s.deepspeed, derive(seed, "attack training", purpose), None, show)

        return Workshop(
            run.base, derive(seed, "attacks"), self._known(seed), retain=run.stream(seed).retain.row, trainer=trainer,
            tokens=self.readings(method, seed), held=run.subject(HELD, seed), twin=run.subject(TWIN, seed), precision=s.precision,
        )  # fmt: skip

    # ---- details

    def _known(self, seed: int) -> list[EncodedMemory]:
        return [m for m in self.run.encoded(seed) if m.role == "keep" and m.shown]

    def _count(self, seed: int, role: str) -> int:
        return sum(m.role == role for m in self.run.encoded(seed))

    def _inputs(self, method: str, seed: int) -> dict[str, Any]:
        s = self.suite
        return {
            "model": self.run.model_key(method, seed), "base": self.run.base.hash, "tokenizer": self.run.base.encoding,
            "memories": memories_hash(self.run.memories),
            "row": s.row, "per_role": s.per_role, "roles": s.roles, "seed": seed,
            "as": method if method in (HELD, TWIN) else "",
        }  # fmt: skip

    def _screening(self, method: str, seed: int, tier: int) -> dict[str, Any]:
        """Part of a key: the thresholds and cheaper stages that decide who survives."""
        if not self.screened(method, tier):
            return {}
        return {"thresholds": self.thresholds.key, "cheaper": [s.key for s in self._cheaper(method, seed, tier)]}

    def _cheaper(self, method: str, seed: int, tier: int) -> list[Stage]:
        shared = [self.battery(method, seed, t) for t in sorted({a.attack.tier for a in self.attacks}) if t < tier and t <= SHARED]
        return shared + [self.single(method, seed, a) for a in self.attacks if SHARED < a.attack.tier < tier]

    def _survivors(self, method: str, seed: int, attack: Attack) -> list[EncodedMemory]:
        """Forget memories for which this attack can still change the worst case, in the order of the subset."""
        if not self.screened(method, attack.tier) or attack.diagnostic:
            return []
        file = self.run.store.run(self.thresholds) / "thresholds.json"
        calibrations = {k: Calibration.from_dict(v) for k, v in json.loads(file.read_text()).items()}
        known = list(self.records(method, seed, self._cheaper(method, seed, attack.tier)))
        forget = [m for m in self.run.encoded(seed) if m.role == "forget"]
        alive = survivors([m.id for m in forget], known, calibrations, attack.access)
        return [m for m in forget if m.id in alive]

    def check(self) -> None:
        """Raise what can be known to go wrong before work begins."""
        if self.suite.ask == "worst" and not self.possible:
            raise UserError(
                f"ask=worst needs thresholds, and so at least {FEWEST_NULL} null values: more memories per role, or more seeds."
            )
        if not any(isinstance(a.attack, Prompting) and a.attack.tier == 0 and a.attack.asks_exactly for a in self.attacks):
            raise UserError(
                f"None of the attacks of suite {self.suite.name} ({', '.join(a.name for a in self.attacks) or 'none'}) asks with the exact "
                "opening in tier 0, which exact, leak and collateral are read from. Add prefix, or a prompting attack of yours with "
                'asks = {"VARIANT": "exact"}.'
            )

    def _once(self, key: Any, make: Any) -> Any:
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]


def _without(memories: Sequence[EncodedMemory], there: Sequence[EncodedMemory]) -> list[EncodedMemory]:
    ids = {m.id for m in there}
    return [m for m in memories if m.id not in ids]
