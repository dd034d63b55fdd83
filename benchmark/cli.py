"""The command `palimpsest`. Each command is a few lines over the modules that do the work."""

from __future__ import annotations

import os
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .errors import UserError, unknown

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False,
    help="Does the text come back? Inject memories, unlearn them, attack, and score what returns.",
)  # fmt: skip
memories_app = typer.Typer(no_args_is_help=True, help="The passages: check a file of them.")
store_app = typer.Typer(no_args_is_help=True, help="Finished stages: list them, remove what no suite uses.")
corpus_app = typer.Typer(no_args_is_help=True, help="The ordinary text: what of it is here, and how much of it repeats.")
app.add_typer(memories_app, name="memories")
app.add_typer(store_app, name="store")
app.add_typer(corpus_app, name="corpus")

console = Console(width=None if sys.stdout.isatty() else 120)
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="suite=NAME (or a YAML file), then any field=value, e.g. per_role=16 methods.npo.lr=1e-4 method=npo"),
]
StorePath = Annotated[Path, typer.Option("--store", envvar="PALIMPSEST_STORE", help="Folder of finished stages.")]
DEFAULT_STORE = Path("palimpsest-store")


class Format(StrEnum):
    """What a report can be printed as."""

    md = "md"
    html = "html"
    csv = "csv"
    latex = "latex"


@app.command("list")
def list_command(what: Annotated[str, typer.Argument(help="methods, attacks, suites, models or studies")] = "methods") -> None:
    """Names with their fields, defaults and one line each."""
    from .config import suite_names
    from .plugins import find, names

    table = Table(box=None, pad_edge=False)
    if what in ("methods", "attacks"):
        kind = what[:-1]
        for column in (kind, "what it is", "fields and defaults"):
            table.add_column(column, overflow="fold")
        for name in names(kind):
            plugin = find(kind, name)
            table.add_row(name, _escaped(plugin.doc), _escaped("\n".join(f"{k}={_short(v)}" for k, v in plugin.defaults.items())))
    elif what in ("suites", "models", "studies"):
        from .subject import shipped_models

        rows = {"suites": suite_names, "models": lambda: dict.fromkeys(shipped_models(), ""), "studies": dict}[what]()
        for name, doc in rows.items():
            table.add_row(name, doc)
        if not rows:
            console.print(f"No {what} yet.")
    else:
        raise unknown("list", what, ["methods", "attacks", "suites", "models", "studies"])
    console.print(table)


@app.command()
def plan(overrides: Overrides = None, store: StorePath = DEFAULT_STORE) -> None:
    """What a run would do: stages done and to do, with an estimate of the time on two CPU cores."""
    run = _run(overrides, store)
    run.check()
    table = Table(box=None, pad_edge=False)
    for column in ("", "stage", "what", "about"):
        table.add_column(column)
    for stage in run.plan:
        done = run.store.done(stage)
        table.add_row("done" if done else "to do", stage.kind, stage.label, "" if done else _time(stage.cost))
    console.print(table)
    console.print(_progress_line(run))


@app.command()
def run(
    overrides: Overrides = None,
    store: StorePath = DEFAULT_STORE,
    report: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("palimpsest-report"),
) -> None:
    """Run a suite: inject, unlearn, attack, measure, report. Interrupt it at any time; running it again continues."""
    from .assemble import results
    from .engine import is_main, start_distributed
    from .progress import Display
    from .report import print_table, write_report

    bound = _run(overrides, store)
    bound.check()
    start_distributed()
    if is_main():
        console.print(_progress_line(bound))
    with Display(bound, console, quiet=not is_main()) as display:
        bound.progress = display.update
        bound.execute(display.finished)
    if is_main():
        found = results(bound)
        print_table(found, console)
        files = write_report(found, report / bound.suite.name)
        console.print("Report: " + ", ".join(str(f) for f in files))


@app.command("report")
def report_command(
    overrides: Overrides = None,
    store: StorePath = DEFAULT_STORE,
    format: Annotated[Format | None, typer.Option(help="Print this; without it the table is shown and all files are written.")] = None,
    out: Annotated[Path, typer.Option(help="Where the files go.")] = Path("palimpsest-report"),
) -> None:
    """The report of a finished suite, recomputed from its records."""
    from .assemble import results
    from .report import print_table, render, write_report

    found = results(_run(overrides, store))
    if format:
        typer.echo(render(found, format.value))
        return
    print_table(found, console)
    console.print("Report: " + ", ".join(str(f) for f in write_report(found, out / found.suite)))


@app.command()
def explain(
    memory: Annotated[str, typer.Argument(help="A memory's id, for example news-01")],
    attack: Annotated[str, typer.Argument(help="An attack's name, for example paraphrase")],
    overrides: Overrides = None,
    store: StorePath = DEFAULT_STORE,
) -> None:
    """One memory under one attack: the prompt, the truth, and what every model says, before and after unlearning."""
    from .explain import explain as text
    from .progress import hush

    hush()
    console.print(text(_run(overrides, store), memory, attack), markup=False, highlight=False)


@app.command("attack")
def attack_command(
    model: Annotated[str, typer.Argument(help="A Hugging Face directory or hub id with safetensors weights")],
    memories: Annotated[Path, typer.Option(help="JSON lines: id, domain, text, opening_end, and paraphrases if you have them")],
    reference: Annotated[str | None, typer.Option(help="A model that never saw the memories; its lengths are subtracted")] = None,
    attacks: Annotated[str, typer.Option(help="Names, separated by commas")] = "prefix,longer_prefix,shifted_window,paraphrase",
    revision: Annotated[str | None, typer.Option(help="Revision of the hub model")] = None,
    row: Annotated[int, typer.Option(help="Tokens of each memory to use; shorter memories lower it")] = 160,
    precision: Annotated[str, typer.Option(help="bf16 (close decisions are asked again in fp32) or fp32")] = "bf16",
    out: Annotated[Path | None, typer.Option(help="Write every answer to this Parquet file")] = None,
) -> None:
    """Attack a model that someone else trained or unlearned; nothing is injected."""
    from .outside import attack_model, summary
    from .progress import hush

    hush()
    answers = attack_model(model, memories, reference, attacks.split(","), revision, row, precision, console)
    console.print(summary(answers, reference is not None))
    if out:
        answers.to_parquet(out, index=False)
        console.print(f"{len(answers)} answers in {out}")


@app.command()
def pretrain(
    model: Annotated[str, typer.Argument(help="pocket, pocket-small, or a YAML file with the fields of configs/models/*.yaml")],
    out: Annotated[Path | None, typer.Option(help="Folder for the models; the shipped one without it")] = None,
) -> None:
    """Train a base model on the corpus with DeepSpeed; an interrupted training continues."""
    from .paths import CONFIGS
    from .pretrain import load_pretrain
    from .pretrain import pretrain as train
    from .progress import simple

    config = load_pretrain(model)
    with simple(console, f"pretraining {config.name}", config.points[-1]) as update:
        train(config, out or CONFIGS / "models", update)


@app.command()
def tune(overrides: Overrides = None, store: StorePath = DEFAULT_STORE) -> None:
    """Try a method's declared grid (method=NAME) on memories and documents that no table uses; prints the trials, the chosen one first."""
    from .progress import hush
    from .tune import tune as search

    methods = [item.removeprefix("method=") for item in overrides or [] if item.startswith("method=")]
    if len(methods) != 1:
        raise UserError("palimpsest tune needs one method=NAME, for example method=npo.")
    hush()
    bound = _run([item for item in overrides or [] if not item.startswith("method=")], store)
    trials = search(bound.suite, methods[0], bound.store, lambda line: console.print(line, highlight=False), lambda *_: None)
    console.print(trials.to_string(index=False, float_format="{:.4g}".format), highlight=False)


@memories_app.command("check")
def memories_check(
    file: Annotated[str, typer.Argument(help="JSON lines; the shipped passages without it")] = "passages",
    tokenizer: Annotated[
        list[str] | None, typer.Option(help="NAME_OR_DIRECTORY:ROW, repeatable; the pocket tokenizer is always checked")
    ] = None,
    corpus: Annotated[bool, typer.Option(help="Also look for 8-word runs shared with the corpus (half a minute)")] = True,
) -> None:
    """Check a file of memories against every rule of its card."""
    from transformers import AutoTokenizer

    from .corpus import load_corpus
    from .memories import check, load_memories
    from .paths import CONFIGS

    memories = load_memories(file)
    tokenizers: dict[str, tuple[object, int]] = {"pocket": (AutoTokenizer.from_pretrained(CONFIGS / "models" / "tokenizer"), 160)}
    for item in tokenizer or []:
        name, _, row = item.rpartition(":")
        if not row.isdigit():
            raise UserError(f"--tokenizer {item!r}: expected NAME_OR_DIRECTORY:ROW, for example EleutherAI/pythia-160m:128.")
        tokenizers[name] = (AutoTokenizer.from_pretrained(name), int(row))
    texts = [t for split in load_corpus().splits.values() for t in split] if corpus else []
    faults = check(memories, tokenizers, texts)
    for fault in faults:
        console.print(fault, markup=False, highlight=False)
    if faults:
        raise UserError(f"{len(faults)} faults in {len(memories)} memories.")
    console.print(f"{len(memories)} memories, {len({m.domain for m in memories})} domains, no fault (tokenizers: {', '.join(tokenizers)}).")


@store_app.command("ls")
def store_ls(store: StorePath = DEFAULT_STORE) -> None:
    """Every finished stage with its size and the time it took."""
    from .store import Store

    table = Table(box=None, pad_edge=False)
    for column in ("stage", "key", "what", "seconds", "MB"):
        table.add_column(column, justify="right" if column in ("seconds", "MB") else "left")
    for kind, key, manifest, size in _existing(Store, store).entries():
        table.add_row(kind, key, manifest["label"], f"{manifest['seconds']:.0f}", f"{size / 1e6:.1f}")
    console.print(table)


@store_app.command("gc")
def store_gc(
    suites: Annotated[list[str] | None, typer.Argument(help="Suites whose stages stay (all shipped ones without it)")] = None,
    store: StorePath = DEFAULT_STORE,
    delete: Annotated[bool, typer.Option("--delete", help="Really delete; without it only shows what would go")] = False,
) -> None:
    """Remove stages that no suite uses, and left-overs of interrupted ones."""
    from .config import suite_names
    from .store import Store

    found = _existing(Store, store)
    keep = {stage.key for name in suites or suite_names() for stage in _run([f"suite={name}"], store).plan}
    gone = found.collect(keep, delete)
    for folder, size in gone:
        console.print(f"{folder}  {size / 1e6:.1f} MB", highlight=False)
    console.print(f"{len(gone)} folders, {sum(s for _, s in gone) / 1e6:.1f} MB " + ("deleted." if delete else "would go; add --delete."))


@corpus_app.command("show")
def corpus_show(overlap: Annotated[bool, typer.Option(help="Also measure the residual overlap (two minutes)")] = False) -> None:
    """Documents per split, coverage of the manifest, and the residual overlap of the held-out splits."""
    from .corpus import load_corpus, residual_overlap

    corpus = load_corpus()
    sizes = ", ".join(f"{len(v):,} {k}" for k, v in corpus.splits.items())
    console.print(f"{corpus.name}: {sizes} documents, coverage {corpus.coverage:.2%}, key {corpus.key}", highlight=False)
    for split, found in (residual_overlap(corpus) if overlap else {}).items():
        console.print(
            f"{split}: {found['mean_share']:.2%} of 8-word runs also in train on average; "
            f"{found['mostly_in_train']:.2%} of the documents have most of theirs there",
            highlight=False,
        )


@corpus_app.command("freeze")
def corpus_freeze(out: Annotated[Path, typer.Argument(help="The manifest to write")]) -> None:
    """Write a manifest of the docstrings installed here (for maintainers; published tracks use the shipped one)."""
    from .corpus import write_manifest

    write_manifest(out)
    console.print(f"Wrote {out}.")


def _run(overrides: list[str] | None, store: Path) -> Any:
    from .config import load_suite
    from .pipeline import Run
    from .store import Store

    given = list(overrides or [])
    suite = next((item.removeprefix("suite=") for item in given if item.startswith("suite=")), "quick")
    return Run(load_suite(suite, [item for item in given if not item.startswith("suite=")]), Store(store))


def _existing(store: Any, path: Path) -> Any:
    if not path.is_dir():
        raise UserError(f"There is no store at {path}; name one with --store.")
    return store(path)


def _progress_line(run: Any) -> str:
    todo = [s for s in run.plan if not run.store.done(s)]
    line = f"{run.suite.name}: {len(run.plan)} stages: {len(run.plan) - len(todo)} done, {len(todo)} to do"
    return line + (f", about {_time(sum(s.cost for s in todo))} on two cores." if todo else ".")


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def main() -> None:
    """Run the command; a user's mistake prints one message and exits with 1, an interruption with 130."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", module=r"(deepspeed|transformers|datasets|torch)\b.*")
    try:
        app(prog_name="palimpsest")
    except UserError as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {_escaped(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted. What is finished is kept; the same command continues.")
        sys.exit(130)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    main()
