"""What the sub-commands share: the console, the arguments, and a run bound to its store."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ..common.errors import UserError
from .progress import Display, duration, hush

console = Console(width=None if sys.stdout.isatty() else 120)
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="suite=NAME (or a YAML file), then any field=value, e.g. per_role=16 methods.npo.lr=1e-4 method=npo"),
]
StorePath = Annotated[Path, typer.Option("--store", envvar="PALIMPSEST_STORE", help="Folder of finished stages.")]
DEFAULT_STORE = Path("palimpsest-store")


def bound_run(overrides: list[str] | None, store: Path) -> Any:
    """The suite that the arguments name, with its overrides, bound to a store."""
    suite = named_suite(overrides)
    from ..running.plan import Run
    from ..running.store import Store

    gc.collect()
    gc.freeze()  # every stage collects garbage, and need not look through all that libraries are made of (0.7 s each time)
    return Run(suite, Store(store))


def named_suite(overrides: list[str] | None) -> Any:
    """The suite that the arguments name, with its overrides. Nothing heavy is imported for it."""
    from ..suites.config import load_suite

    given = list(overrides or [])
    suite = next((item.removeprefix("suite=") for item in given if item.startswith("suite=")), "quick")
    return load_suite(suite, [item for item in given if not item.startswith("suite=")])


def estimated(run: Any, display: Display) -> Any:
    """The estimates of a run that was checked; what they need is measured now if it was never measured here."""
    from ..running.estimate import Estimates

    hush()
    run.progress = display.update
    return Estimates(run)


def existing_store(path: Path) -> Any:
    """A store that must be there already."""
    from ..running.store import Store

    if not path.is_dir():
        raise UserError(f"There is no store at {path}; name one with --store.")
    return Store(path)


def progress_line(run: Any, estimates: Any) -> str:
    """How many stages of a run are done, and about how long the others take here."""
    from ..common.processes import machine

    todo = [s for s in run.plan if not run.store.done(s)]
    line = f"{run.suite.name}: {len(run.plan)} stages: {len(run.plan) - len(todo)} done, {len(todo)} to do"
    left = duration(sum(map(estimates.seconds, todo)))
    return line + (f", about {left} on this machine ({machine()}, {run.precision})." if todo else ".")


def precision_line(run: Any) -> str:
    """What a run's models are trained in, and why."""
    from ..models.precision import config_of, described

    return described(run.suite.precision, run.precision, config_of(run.base))


def memory_line(run: Any, ranks: int = 1) -> str:
    """What the largest training of a run takes on each rank, by arithmetic."""
    from ..common.processes import device
    from ..running.memory import GB, of_training

    found = of_training(run, ranks)
    parts = f"{(found.device + found.host) / GB:.1f} GB"
    if device().type != "cpu":
        parts = f"{found.device / GB:.1f} GB of the device and {found.host / GB:.1f} GB of the host"
    return f"Memory of training: about {parts} for each of {ranks} rank{'s' * (ranks > 1)} (deepspeed={run.suite.deepspeed})."


def rates_line(run: Any) -> str:
    """Which learning rates were chosen on a narrower model than the run's, and what the documented rule makes of them; else empty."""
    from ..running.learning_rates import WIDTH, by_width, width_of

    if not (found := by_width(run)):
        return ""
    return (
        f"Learning rates not set here were chosen for a model of width {WIDTH}, and this one has {width_of(run):,}. The rule of "
        f"docs/real.md gives: {' '.join(f'{name}={lr:g}' for name, lr in found.items())}"
    )


def escaped(text: str) -> str:
    """Text that the console prints as it is."""
    return escape(text)


def whole_numbers(text: str) -> tuple[int, ...]:
    """Seeds that somebody named: `0` or `0,1`."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(f"--seeds {text!r}: expected whole numbers with commas between them, for example 0,1.") from None
