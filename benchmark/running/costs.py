"""What a row on the board costs on a device whose rates were measured: the plan's own tokens, divided by tokens per second.

`python -m palimpsest.benchmark.running.costs suite=pocket method=npo trained=36800 asked=71600 scored=10000 said=30 opens=20`
prints the sheet. Rates are in tokens a second (`said`: steps of generation); `opens`: seconds in which a stage opens, checks and saves
models, beyond those of a small one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory

from ..common.errors import UserError
from ..common.types import BASE, HELD, TWIN
from ..suites.config import load_suite
from .estimate import Rates
from .plan import Run
from .store import Stage, Store

HOUR = 3600


@dataclass(frozen=True)
class Cost:
    """Stages of one kind: how many, their tokens in thousands by what is done with them, and the hours that they take."""

    what: str
    stages: int
    trained: float
    asked: float
    scored: float
    hours: float


def sheet(run: Run, method: str, rates: Rates, opens: float = 0) -> dict[str, list[Cost]]:
    """What every row shares (the null, the yardsticks), and what one method's row adds, over all seeds of the run."""
    if method not in run.methods or method == HELD:
        raise UserError(f"method={method}: expected one of {', '.join(m for m in run.methods if m != HELD)}.")
    seeds = run.suite.seeds
    base = run.quality_stage(run.model(BASE, seeds[0]))
    null = [s for seed in seeds for m in (HELD, TWIN) for s in (*_model(run, m, seed), *run.attacking.stages(run.model(m, seed)))]
    null += [run.quality_stage(run.model(m, seed)) for seed in seeds for m in (HELD, TWIN)]
    row = [s for seed in seeds for s in (*_model(run, method, seed), *run.attacking.stages(run.model(method, seed)))]
    row += [run.quality_stage(run.model(method, seed)) for seed in seeds]
    return {"shared": _costs([base, *null], rates, opens), "row": _costs(row, rates, opens)}


def _model(run: Run, name: str, seed: int) -> list[Stage]:
    stage = run.model(name, seed).stage
    return [stage] if stage else []


def _costs(stages: Iterable[Stage], rates: Rates, opens: float) -> list[Cost]:
    kinds: dict[str, list[Stage]] = {}
    for stage in stages:
        kinds.setdefault(stage.kind, []).append(stage)
    found = []
    for kind, mine in kinds.items():
        works = [s.work() for s in mine]
        tokens = [sum(getattr(w, name) for w in works) / 1000 for name in ("trained", "asked", "scored")]
        found.append(Cost(kind, len(mine), *tokens, hours=sum(rates.seconds(work) + opens for work in works) / HOUR))
    return found


def table(costs: dict[str, list[Cost]]) -> str:
    """Markdown: a line for each kind of stage, and the sums."""
    lines = ["| part | stages | | trained, k tokens | asked | scored | hours |", "|---|---|---|---|---|---|---|"]
    for part, kinds in costs.items():
        for c in kinds:
            lines.append(f"| {part} | {c.what} | {c.stages} | {c.trained:,.0f} | {c.asked:,.0f} | {c.scored:,.0f} | {c.hours:.2f} |")
        lines.append(f"| **{part}** | all | {sum(c.stages for c in kinds)} | | | | **{sum(c.hours for c in kinds):.1f}** |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Print the sheet of the suite and the rates that the arguments name."""
    names = [f.name for f in fields(Rates)]
    given = dict(item.split("=", 1) for item in arguments if item.partition("=")[0] in (*names, "opens", "suite"))
    others = [item for item in arguments if item.partition("=")[0] not in given]
    method = next((item.removeprefix("method=") for item in others if item.startswith("method=")), "")
    try:
        rates, opens = Rates(**{name: float(given[name]) for name in names}), float(given.get("opens", 0))
    except (KeyError, ValueError):
        raise UserError(f"Expected the rates {', '.join(f'{n}=NUMBER' for n in names)}, tokens (said: steps) a second.") from None
    with TemporaryDirectory() as folder:
        run = Run(load_suite(given.get("suite", "pocket"), others), Store(Path(folder)))
        print(table(sheet(run, method, rates, opens)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"Error: {error}")
