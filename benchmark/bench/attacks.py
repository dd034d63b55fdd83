"""What the battery's stages took, tier by tier, from their manifests; and what beam search takes with its screen and without."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import replace
from typing import cast

import numpy as np
import pandas as pd
from rich.table import Table

from ..attack_tools.bases import Searching, Workshop
from ..commands.progress import Display
from ..common.types import TWIN, Answer, EncodedMemory, Finding, TokenReading
from ..models.subject import Subject
from ..running.plan import Run
from ..running.store import Stage
from ..running.who_is_asked import SHARED
from .budget import ROUNDS, Budget, spread
from .reading import timed

MEMORIES = (1, 4)  # at least, and where there is time


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


def screening(run: Run, table: Table, display: Display, seconds: float) -> None:
    """Beam search on some memories of each finished model, with its screen and without: the same answers, in how much time?"""
    seed = run.suite.seeds[0]
    armed = [a.attack for a in run.who.attacks if a.name == "beam_search"]
    models = [m for m in (TWIN, *run.methods) if run.store.done(run.attacking.battery(run.model(m, seed), 0))]
    budget = Budget(seconds, len(armed) * len(models))
    for attack in armed:
        for method in models:
            what = f"beam search on {method}"
            if budget.spent:
                table.add_row(what, "left out", "", "the time for beam search was over")
                continue
            display.begin(what)
            memories = [m for m in run.encoded(seed) if m.role == "forget"][: MEMORIES[1]]
            tools = run.attacking.workshop(run.model(method, seed), "bench")
            with run.loaded(run.model(method, seed)) as subject:
                _screened(what, cast(Searching, attack), subject, memories, tools, table, budget)


def _screened(
    what: str, attack: Searching, subject: Subject, memories: list[EncodedMemory], tools: Workshop, table: Table, budget: Budget
) -> None:
    blind = replace(tools, tokens={m.id: _blind(m.id, len(m.row)) for m in memories})

    def search(t: Workshop, of: list[EncodedMemory]) -> tuple[float, list[Answer | Finding]]:
        return timed(lambda: list(attack.search(subject, of, t)))

    first = search(blind, memories[:1])[0]  # kernels are compiled when first used
    memories = memories[: budget.fitting(2 * ROUNDS * first, *MEMORIES)]
    rounds = [(search(tools, memories), search(blind, memories)) for _ in range(ROUNDS)]
    (_, found), (_, others) = rounds[0]
    mine, theirs = ([a.matched for a in part if isinstance(a, Answer)] for part in (found, others))
    shares = pd.DataFrame([vars(f) for f in found if isinstance(f, Finding)]).groupby("quantity").value.mean()
    taken, longer = (statistics.median(seconds) for seconds in zip(*((a[0], b[0]) for a, b in rounds), strict=True))
    table.add_row(
        what,
        f"{taken:.1f} s for {len(memories)} memories: {sum(a != b for a, b in zip(mine, theirs, strict=True))} differ",
        spread([b[0] / max(a[0], 1e-9) for a, b in rounds]),
        f"without the screen, {longer:.1f} s; " + ", ".join(f"{quantity} {share:.0%}" for quantity, share in shares.items()),
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
