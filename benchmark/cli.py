"""The command `palimpsest`. Each command is a few lines over the modules that do the work."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .commands.attack import attack
from .commands.board import board
from .commands.check import check
from .commands.cluster import run_on
from .commands.data import corpus_app, memories_app
from .commands.diff import diff
from .commands.fetch import fetch
from .commands.interruption import interruption
from .commands.moving import store_app
from .commands.new import new
from .commands.progress import Display, RunDisplay, duration, hush
from .commands.reporting import reported
from .commands.reproduce import reproduce
from .commands.shared import (
    DEFAULT_STORE,
    Overrides,
    StorePath,
    bound_run,
    console,
    escaped,
    estimated,
    memory_line,
    named_suite,
    precision_line,
    progress_line,
    rates_line,
)
from .commands.study import study
from .commands.submit import submit
from .commands.verify import verify
from .common.errors import UserError, unknown
from .common.launched import adopt
from .common.strangers import SHOW

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Does the text come back? Inject memories, unlearn them, attack, and score what returns.",
)
app.add_typer(memories_app, name="memories")
app.add_typer(store_app, name="store")
app.add_typer(corpus_app, name="corpus")


class Format(StrEnum):
    """What a report can be printed as."""

    md = "md"
    html = "html"
    csv = "csv"
    latex = "latex"


@app.command("list")
def list_command(what: Annotated[str, typer.Argument(help="methods, attacks, suites, models, sets or studies")] = "methods") -> None:
    """Names with their fields, defaults and one line each."""
    from .common.plugins import find, names
    from .suites.config import suite_names

    table = Table(box=None, pad_edge=False)
    if what in ("methods", "attacks", "studies"):
        kind = {"methods": "method", "attacks": "attack", "studies": "study"}[what]
        for column in (kind, "what it is", "fields and defaults"):
            table.add_column(column, overflow="fold")
        for name in names(kind):
            plugin = find(kind, name)
            table.add_row(name, escaped(plugin.doc), escaped("\n".join(f"{k}={_short(v)}" for k, v in plugin.defaults.items())))
    elif what in ("suites", "models"):
        from .models.fetchable import FETCHABLE
        from .models.opening import shipped_models

        fetchable = {name: f"{model.doc}; {'fetched' if model.here else f'palimpsest fetch {name}'}" for name, model in FETCHABLE.items()}
        rows = suite_names() if what == "suites" else dict.fromkeys(shipped_models(), "") | fetchable
        for name, doc in rows.items():
            table.add_row(name, doc)
    elif what == "sets":
        from .texts.sets.named import SETS

        for column in ("set and parts", "hub", "licence"):
            table.add_column(column, overflow="fold")
        for name, found in SETS.items():
            parts, hubs = [f"{name}:{part}" for part in found.parts], dict.fromkeys(map(found.hub_of, found.parts))
            table.add_row("\n".join(parts), "\n".join(hubs), found.licence)
    else:
        raise unknown("list", what, ["methods", "attacks", "suites", "models", "sets", "studies"])
    console.print(table)


@app.command()
def plan(
    overrides: Overrides = None,
    store: StorePath = DEFAULT_STORE,
    ranks: Annotated[int, typer.Option(min=1, help="Devices on which each training is spread: what memory it takes on each.")] = 1,
) -> None:
    """What a run would do: stages done and to do, why these are not done, and how long they take on this machine."""
    from .running.reasons import Reasons

    with Display(console) as display:
        display.begin("reading suite, corpus and model")
        run = bound_run(overrides, store)
        run.validate()
        estimates = estimated(run, display)
    reasons = Reasons(run.store)
    table = Table(box=None, pad_edge=False)
    for column in ("", "stage", "what", "about", "why"):
        table.add_column(column, overflow="fold")
    for stage in run.plan:
        done = run.store.done(stage)
        rest = ("", "") if done else (duration(estimates.seconds(stage)), reasons.why(stage))
        table.add_row("done" if done else "to do", stage.kind, stage.label, *rest)
    console.print(table)
    console.print(progress_line(run, estimates))
    console.print(precision_line(run), highlight=False)
    console.print(memory_line(run, ranks), highlight=False)
    if rates := rates_line(run):
        console.print(rates, highlight=False, soft_wrap=True)


@app.command()
def run(
    overrides: Overrides = None,
    store: StorePath = DEFAULT_STORE,
    report: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("palimpsest-report"),
    on: Annotated[str, typer.Option(help="ray or ray:ADDRESS: make the stages on a Ray cluster, many at once.")] = "",
    ranks: Annotated[int, typer.Option(min=1, help="With --on: devices on which each training and each reading is spread.")] = 1,
) -> None:
    """Run a suite: inject, unlearn, attack, measure, report. Interrupt it at any time; running it again continues."""
    if on:
        return run_on(on, ranks, overrides, store, report)
    if ranks > 1:
        raise UserError("--ranks goes with --on ray; without it a launcher starts the ranks (docs/cluster.md).")
    with RunDisplay(console) as display:
        interruption.kept = display.kept
        display.say(f"{named_suite(overrides).name}: loading libraries, corpus and model (up to a minute; more when a corpus is new)")
        display.begin("loading libraries, corpus and model")
        from .common.paths import writable
        from .common.processes import is_main, require_shared, start_distributed

        hush()
        bound = bound_run(overrides, store)
        writable(report / bound.suite.name / "report.md")
        writable(bound.store.root / ".rates" / "RATES.json")
        bound.validate()
        start_distributed()
        require_shared(bound.store.root)
        if is_main():
            estimates = estimated(bound, display)
            display.say(progress_line(bound, estimates))
            display.say(precision_line(bound))
            if rates := rates_line(bound):
                display.say(rates)
            display.plan(bound, estimates)
        bound.progress = display.update
        bound.execute(display.finished, display.started)
    if is_main():
        reported(bound, report / bound.suite.name)


@app.command("report")
def report_command(
    overrides: Overrides = None,
    store: StorePath = DEFAULT_STORE,
    format: Annotated[Format | None, typer.Option(help="Print this; without it the table is shown and all files are written.")] = None,
    out: Annotated[Path, typer.Option(help="Where the files go.")] = Path("palimpsest-report"),
) -> None:
    """The report of a finished suite, recomputed from its records."""
    from ..leaderboard.report import render
    from .common.paths import writable
    from .running.assemble import results

    bound = bound_run(overrides, store)
    if format:
        return typer.echo(render(results(bound), format.value))
    writable(out / bound.suite.name / "report.md")
    reported(bound, out / bound.suite.name)


@app.command()
def explain(
    memory: Annotated[str, typer.Argument(help="A memory's id, for example news-01")],
    attack: Annotated[str, typer.Argument(help="An attack's name, for example paraphrase")],
    overrides: Overrides = None,
    store: StorePath = DEFAULT_STORE,
) -> None:
    """One memory under one attack: the prompt, the truth, and what every model says, before and after unlearning."""
    from .running.explain import explain as text

    hush()
    console.print(text(bound_run(overrides, store), memory, attack), markup=False, highlight=False)


@app.command()
def pretrain(
    model: Annotated[str, typer.Argument(help="pocket, pocket-small, or a YAML file with the fields of configs/models/*.yaml")],
    out: Annotated[Path | None, typer.Option(help="Folder for the models; the shipped one without it")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make a shipped model anew in its place")] = False,
) -> None:
    """Train a base model on the corpus with DeepSpeed; an interrupted training continues."""
    from .common.paths import CONFIGS
    from .training.pretrain import load_pretrain
    from .training.pretrain import pretrain as train

    config = load_pretrain(model)
    shipped = CONFIGS / "models" / config.name
    if out is None and not overwrite and any(shipped.glob("step*")):
        raise UserError(f"{config.name} is a shipped model and stays as it is. Name another folder with --out, or say --overwrite.")
    interruption.kept = lambda: "The training is kept as it was when last saved; the same command continues."
    with Display(console) as display:
        display.begin(f"pretraining {config.name}")
        hush()
        train(config, out or CONFIGS / "models", display.update)


for command in (attack, board, check, diff, fetch, new, reproduce, study, submit, verify):
    app.command()(command)


@app.command()
def tune(
    overrides: Overrides = None,
    store: StorePath = DEFAULT_STORE,
    write: Annotated[bool, typer.Option("--write", help="Make the chosen fields the method's defaults on the suite's track.")] = False,
) -> None:
    """Tune one method (method=NAME) by the fixed rule, on memories and documents that no table uses; an interrupted search continues."""
    from .suites.frozen import NEW_NAME, record_of
    from .suites.tracks import write as write_track

    names = [item.removeprefix("method=") for item in overrides or [] if item.startswith("method=")]
    if len(names) != 1:
        raise UserError("palimpsest tune needs one method=NAME, for example method=npo.")
    suite = named_suite(others := [item for item in overrides or [] if not item.startswith("method=")])
    if write and not suite.track:
        raise UserError(f"The suite {suite.name} belongs to no track, so there is nowhere to write to; add track=NAME.")
    if write and (record := record_of(suite.track)) and names[0] in record.tuned:
        raise UserError(
            f"The track {suite.track} is frozen, with the fields that {names[0]} has there. {NEW_NAME.format(track=suite.track)}"
        )
    interruption.kept = lambda: "Finished stages and trials are kept; the same command continues."
    with Display(console) as display:
        display.begin(f"tuning {names[0]}: loading libraries, corpus and model")
        import pandas as pd

        from .running.tune import rule, table
        from .running.tune import tune as search

        hush()
        bound = bound_run(others, store)
        trials = search(bound.suite, names[0], bound.store, lambda t: display.say(f"trial {t.number}: {t.fields}"), progress=display.update)
    console.print(pd.DataFrame(table(trials)).to_string(index=False, float_format="{:.4g}".format), highlight=False)
    chosen = trials[0].fields if rule(trials[0])[0] == 0 else {}
    if not chosen:
        console.print("No trial stays within the budget of quality: none is chosen.")
    if write:
        write_track(bound.suite.track, names[0], chosen, table(trials))


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def main() -> None:
    """Run the command; a user's mistake prints one message and exits with 1, an interruption with 130."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("torchao", "torch.utils._pytree"):  # what they warn of at import is not the user's business
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(deepspeed|transformers|datasets|torch)\b.*")
    interruption.around(_run)


def _run() -> None:
    try:
        adopt(os.environ)
        app(prog_name="palimpsest")
    except UserError as error:
        if interruption.pressed:
            raise
        if os.environ.get(SHOW):
            traceback.print_exception(error)
        Console(stderr=True).print(f"[bold red]Error:[/] {escaped(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
