"""What the battery's stages took, tier by tier, from their manifests; and what beam search takes with its screen and without."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import cast

import numpy as np
import pandas as pd
from rich.table import Table

from ..attack_tools.bases import Searching, Workshop
from ..common.types import TWIN, Answer, EncodedMemory, Finding, TokenReading
from ..models.subject import Subject
from ..running.plan import Run
from ..running.store import Stage
from ..running.who_is_asked import SHARED
from .reading import timed


def tiers(run: Run, table: Table) -> None:
    """Seconds per model and tier of a suite's finished stages (mean over models and seeds), on the machine that made them."""
    taken: dict[str, list[float]] = defaultdict(list)
    cells = [(m, seed) for seed in run.suite.seeds for m in (TWIN, *run.methods)]
    for method, seed in cells:
        of_tier: dict[str, float] = defaultdict(float)
        stages = run.attacking.stages(run.model(method, seed))
        if not all(run.store.done(s) for s in stages):
            continue
        for stage in stages:
            of_tier[_tier(run, stage)] += run.store.manifest(stage)["seconds"]
        for tier, seconds in of_tier.items():
            taken[tier].append(seconds)
    for tier, seconds in sorted(taken.items()):
        count = f"{len(seconds)} of {len(cells)} models"
        table.add_row(f"suite {run.suite.name}, {tier}", f"{sum(seconds) / len(seconds):.0f} s per model", "", count)
    if not taken:
        table.add_row(f"suite {run.suite.name}", "no finished attack stages in this store", "", "palimpsest run makes them")


def screening(run: Run, table: Table, count: int = 4) -> None:
    """Beam search on some memories of each finished model, with its screen and without: the same answers, in how much time?"""
    seed = run.suite.seeds[0]
    for armed in (a for a in run.who.attacks if a.name == "beam_search"):
        attack = cast(Searching, armed.attack)
        for method in (TWIN, *run.methods):
            if not run.store.done(run.attacking.battery(run.model(method, seed), 0)):
                continue
            memories = [m for m in run.encoded(seed) if m.role == "forget"][:count]
            tools = run.attacking.workshop(run.model(method, seed), "bench")
            with run.loaded(run.model(method, seed)) as subject:
                _screened(f"beam search on {method}", attack, subject, memories, tools, table)


def _screened(what: str, attack: Searching, subject: Subject, memories: list[EncodedMemory], tools: Workshop, table: Table) -> None:
    def search(t: Workshop) -> tuple[float, list[Answer | Finding]]:
        return timed(lambda: list(attack.search(subject, memories, t)))

    list(attack.search(subject, memories[:1], tools))  # kernels are compiled when first used
    taken, found = search(tools)
    longer, others = search(replace(tools, tokens={m.id: _blind(m.id, len(m.row)) for m in memories}))
    mine, theirs = ([a.matched for a in part if isinstance(a, Answer)] for part in (found, others))
    shares = pd.DataFrame([vars(f) for f in found if isinstance(f, Finding)]).groupby("quantity").value.mean()
    text = ", ".join(f"width {str(name).removeprefix('screened_')} {share:.0%}" for name, share in shares.items())
    table.add_row(
        what,
        f"{taken:.1f} s for {len(memories)} memories: {sum(a != b for a, b in zip(mine, theirs, strict=True))} differ",
        f"{longer / max(taken, 1e-9):.1f}x",
        f"without the screen, {longer:.1f} s; it decides {text}",
    )


def _blind(memory: str, length: int) -> TokenReading:
    """What tells a screen nothing: every token may be the likeliest, and no text is likely."""
    nothing = np.full(length, -np.inf)
    return TokenReading(memory, nothing, nothing, nothing, np.zeros(length, np.int64), nothing)


def _tier(run: Run, stage: Stage) -> str:
    if stage.kind == "checks":
        return "checks"
    if stage.kind == "battery":
        return f"tier {stage.inputs['tier']}"
    name = stage.inputs["attack"]["name"]
    return f"tier {next(a.attack.tier for a in run.who.attacks if a.name == name and a.attack.tier > SHARED)}"
