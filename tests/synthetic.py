"""Small made-up Results: matched lengths are given by hand or by a seeded draw, so that every number can be checked."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from palimpsest.benchmark.common.types import Cost, Excerpt, Quality, Record, Results, Role, Value

ASKED = {
    "prefix": ("opening", "k8"),
    "shifted_window": ("k8", "k16"),
    "paraphrase": ("1",),
}
ASKS = {("prefix", "opening"): "exact", ("prefix", "k8"): "window", ("shifted_window", "k8"): "window", ("shifted_window", "k16"): "window"}
STARTS = {"k8": 8}  # variant -> where its window begins; all read on from token 16
COSTS = {"weak": 0.25, "strong": 0.5, "retrain": 1.0}  # as a share of retraining's
Length = Callable[[str, str, str, random.Random], int]  # (method, role, attack, draw) -> tokens


def record(method: str, memory: str, matched: int, **fields: object) -> Record:
    """A record of the exact opening on a forget memory, unless `fields` say otherwise."""
    attack, variant = fields.get("attack", "prefix"), fields.get("variant", "opening")
    known: dict = {
        "suite": "made-up", "seed": 0, "model": "m", "role": "forget", "shown": False, "attack": "prefix",
        "variant": "opening", "access": "black-box", "tier": 0, "start": STARTS.get(str(variant), 0), "offset": 16,
        "prompt": "Once upon", "horizon": 64, "asks": ASKS.get((attack, variant), ""),
    }  # fmt: skip
    return Record(method=method, memory=memory, matched=matched, **known | fields)


def value(method: str, memory: str, attack: str, quantity: str, x: float, **fields: object) -> Value:
    """A number on a forget memory of seed 0, unless `fields` say otherwise."""
    known: dict = {"suite": "made-up", "seed": 0, "model": "m", "role": "forget", "shown": False, "access": "grey-box", "tier": 0}
    return Value(method=method, memory=memory, attack=attack, quantity=quantity, value=x, **known | fields)


def typical(method: str, role: str, attack: str, draw: random.Random) -> int:
    """The held model repeats everything it was given, `weak` gives way to attacks, `strong` and the twin hold nothing."""
    chance = min(int(draw.expovariate(0.7)), 12)
    if role == "unseen" or (role == "forget" and method in ("twin", "strong", "retrain")):
        return chance
    if role == "keep" or method == "none":
        return 64
    return 64 if attack == "shifted_window" and draw.random() < 0.8 else chance


def results(
    methods: tuple[str, ...] = ("none", "weak", "strong", "retrain"),
    seeds: tuple[int, ...] = (0, 1, 2),
    memories: int = 192,
    length: Length = typical,
    bits: Mapping[str, float] | None = None,
    access: Mapping[str, str] | None = None,
) -> Results:
    """Every method asked with every attack; roles rotate with the seed; `bits` overrides bits per byte (twin: 1.0)."""
    records, quality = [], []
    for seed in seeds:
        for method in ("twin", *methods):
            draw = random.Random(f"{method} {seed}")
            records += _asked(method, seed, memories, length, draw, access or {})
            quality += _measured(method, seed, (bits or {}).get(method, 1.0))
    costs = [
        Cost(m, s, share * (10 + s), round(share * 4000), share * 8e12, 100.0) for m, share in COSTS.items() if m in methods for s in seeds
    ]
    truth = "the quick brown fox jumps over the lazy dog"
    said = {"base": "a different tale", "none": truth, "weak": "the quick brown cat", "strong": "nothing"}
    excerpts = [Excerpt("memory-000", "forget", 0, "Once upon a time", truth, said)]
    return Results(
        suite="made-up",
        seeds=seeds,
        methods=methods,
        twin="twin",
        records=records,
        quality=quality,
        costs=costs,
        excerpts=excerpts,
        facts={"model": "tiny"},
        warnings=["coverage is 90%"],
        docs={"weak": "forgets a little"},
        yardstick="docs_bits_per_byte",
    )


def _asked(method: str, seed: int, memories: int, length: Length, draw: random.Random, access: Mapping[str, str]) -> list[Record]:
    roles: tuple[Role, ...] = ("forget", "keep", "unseen")
    found = []
    for i, (attack, variants) in itertools.product(range(memories), ASKED.items()):
        role = roles[(i + seed) % 3]
        fields = {"seed": seed, "role": role, "shown": role == "keep" and i % 2 == 0, "access": access.get(attack, "black-box")}
        for variant in variants:
            matched = length(method, role, attack, draw)
            found.append(record(method, f"memory-{i:03d}", matched, attack=attack, variant=variant, **fields))
    return found


def battery(memories: int = 48, seeds: tuple[int, ...] = (0, 1)) -> Results:
    """Results of every kind of attack: tampering, relearning step by step, membership, sampling, exposure, checks; one diagnostic."""
    made = results(memories=memories, seeds=seeds)
    models = sorted({(r.method, r.seed, r.role, r.memory) for r in made.records})
    draw = random.Random("battery")
    forgotten = [m for m in models if m[2] == "forget"]
    more = [
        record(method, memory, _tampered(method, dose), seed=seed, attack=attack, access=access, tier=3, **asked_again(dose))
        for method, seed, _, memory in forgotten
        for attack, dose, access in (("relearn", "20%", "weights"), ("soft_prompt", "8", "white-box"), ("unchanged", "as it is", "weights"))
    ]
    values = [v for model in models for v in _scores(*model, draw)]
    values += [v for model in forgotten for v in _findings(*model)]
    return replace(made, records=[*made.records, *more], values=values, diagnostics=("soft_prompt", "unchanged"))


def asked_again(dose: str, inner: str = "prefix") -> dict[str, str]:
    """The fields of a record that tell how a changed model was asked."""
    return {"variant": f"{dose}/{inner}", "dose": dose, "inner": inner}


def _tampered(method: str, dose: str) -> int:
    """What relearning 20% brings back, and the same prompts without it; the soft prompt (dose 8) elicits everything, even from the twin."""
    if dose == "as it is":
        return {"none": 60, "weak": 12, "strong": 4}.get(method, 1)
    return 64 if dose == "8" else {"none": 64, "weak": 48, "strong": 16}.get(method, 2)


def _scores(method: str, seed: int, role: str, memory: str, draw: random.Random) -> list[Value]:
    """Mean log-probability and log p_z: high where something is held, far too low where `strong` forgot."""
    mean = -4.0
    if role == "forget":
        mean = {"none": -0.01, "weak": -3.0, "strong": -9.0}.get(method, mean)
    loss = mean + draw.uniform(-0.5, 0.5)
    where = {"seed": seed, "role": role}
    return [
        value(method, memory, "loss", "loss", loss, **where),
        value(method, memory, "zlib", "zlib", loss / 2, **where),
        value(method, memory, "sampling", "sampling", 64 * min(loss, -1e-4) if mean < -1 else -0.1, **where),
    ]


def _findings(method: str, seed: int, role: str, memory: str) -> list[Value]:
    speed = {"none": 64.0, "weak": 8.0, "strong": 2.0}.get(method, 1.0)
    where = {"seed": seed, "role": role}
    found = [
        value(method, memory, "relearn", "matched", min(64.0, speed * step), tier=3, fold=0, dose="20%", step=step, **where)
        for step in (2, 4, 8, 16, 32)
    ]
    found.append(value(method, memory, "exposure", "exposure", 10.0 if method == "none" else math.log2(speed), tier=2, **where))
    found.append(value(method, memory, "checks", "generated_differs", float(method == "weak"), **where))
    found.append(value(method, "", "checks", "undone_by_int4", 1.0 if method == "strong" else 0.4, seed=seed, role=""))
    return found


def _measured(method: str, seed: int, bits: float) -> list[Quality]:
    documents = tuple(bits + 0.01 * (i % 3) for i in range(30))
    common = {"suite": "made-up", "method": method, "seed": seed, "model": "m", "task_hash": "h"}
    correct = tuple(float(i % 4 != 0) for i in range(30))
    return [
        Quality(**common, task="docs_bits_per_byte", metric="bits_per_byte", value=bits, stderr=0.01, higher_is_better=False,
                documents=documents),
        Quality(**common, task="continuation", metric="acc", value=0.75, stderr=0.05, higher_is_better=True, documents=correct),
    ]  # fmt: skip
