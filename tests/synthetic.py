"""Small made-up Results: matched lengths are given by hand or by a seeded draw, so that every number can be checked."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping

from palimpsest.benchmark.types import Cost, Excerpt, Quality, Record, Results, Role

ASKED = {
    "prefix": ("opening", "k8"),
    "shifted_window": ("k8", "k16"),
    "paraphrase": ("1",),
}
Length = Callable[[str, str, str, random.Random], int]  # (method, role, attack, draw) -> tokens


def record(method: str, memory: str, matched: int, **fields: object) -> Record:
    """A record of the exact opening on a forget memory, unless `fields` say otherwise."""
    known: dict = {
        "suite": "made-up", "seed": 0, "model": "m", "role": "forget", "shown": False, "attack": "prefix",
        "variant": "opening", "access": "black-box", "tier": 0, "start": 0, "offset": 16, "prompt": "Once upon", "horizon": 64,
    }  # fmt: skip
    return Record(method=method, memory=memory, matched=matched, **known | fields)


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
    costs = [Cost(m, s, 10.0 + s, 1000) for m in methods for s in seeds]
    truth = "the quick brown fox jumps over the lazy dog"
    said = {"base": "a different tale", "none": truth, "weak": "the quick brown cat", "strong": "nothing"}
    excerpts = [Excerpt("memory-000", "forget", 0, "Once upon a time", truth, said)]
    return Results(
        "made-up", seeds, methods, "twin", records, quality, costs, excerpts,
        {"model": "tiny"}, ["coverage is 90%"], {"weak": "forgets a little"},
    )  # fmt: skip


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


def _measured(method: str, seed: int, bits: float) -> list[Quality]:
    documents = tuple(bits + 0.01 * (i % 3) for i in range(30))
    common = {"suite": "made-up", "method": method, "seed": seed, "model": "m", "task_hash": "h"}
    correct = tuple(float(i % 4 != 0) for i in range(30))
    return [
        Quality(**common, task="docs_bits_per_byte", metric="bits_per_byte", value=bits, stderr=0.01, higher_is_better=False,
                documents=documents),
        Quality(**common, task="continuation", metric="acc", value=0.75, stderr=0.05, higher_is_better=True, documents=correct),
    ]  # fmt: skip
