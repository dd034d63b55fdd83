"""Sub-commands about inputs and outputs on disk: memories, corpus, store."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..common.errors import UserError
from .progress import Display
from .shared import DEFAULT_STORE, StorePath, bound_run, console, existing_store

SHOWN = 5  # memories that are named, of many that are left out

memories_app = typer.Typer(no_args_is_help=True, help="The passages: check a file of them.")
store_app = typer.Typer(no_args_is_help=True, help="Finished stages: list them, remove what no suite uses.")
corpus_app = typer.Typer(no_args_is_help=True, help="The ordinary text: what of it is here, and how much of it repeats.")


@memories_app.command("check")
def memories_check(
    file: Annotated[str, typer.Argument(help="JSON lines; the shipped passages without it")] = "passages",
    tokenizer: Annotated[
        list[str] | None, typer.Option(help="MODEL_OR_DIRECTORY:ROW, the model and the row of your run, repeatable; pocket:160 without it")
    ] = None,
    house: Annotated[bool, typer.Option("--style", help="Also apply the house style of the shipped passages")] = False,
    corpus: Annotated[bool, typer.Option(help="With --style: also look for 8-word runs shared with the corpus (some minutes)")] = True,
) -> None:
    """Say what keeps a file of memories from being run with a model and row; with --style also where it leaves the house style."""
    from ..models.opening import located, tokenizer_of
    from ..texts.memories import largest_per_role, load_memories, style
    from ..texts.sets.named import is_named, left_out
    from ..texts.usable import must_hold, usable

    memories = asked = load_memories(file)
    tokenizers: dict[str, tuple[Any, int]] = {}
    for item in tokenizer or ["pocket:160"]:
        name, _, row = item.rpartition(":")
        if not name or not row.isdigit():
            raise UserError(f"--tokenizer {item!r}: expected MODEL_OR_DIRECTORY:ROW, for example EleutherAI/pythia-160m:128.")
        tokenizers[item if name in tokenizers else name] = (tokenizer_of(located(name)), int(row))
    named = is_named(file)
    faults = [] if named else must_hold(memories, tokenizers)
    for name, (own, row) in tokenizers.items():
        _say_rows(name, own, memories, named)
        if named:
            try:
                out = usable(memories, own, row)[1]
                asked = [m for m in asked if m.id not in out]
                _say_left_out(f"Under {name} with a row of {row}", list(out.values()))
            except UserError as error:
                faults.append(f"Under {name}: {error}")
    _listed(faults)
    most = largest_per_role(asked)
    roles = f"per_role can be at most {most}" if most else "its domains allow no role: give each a multiple of three memories"
    domains = len({m.domain for m in asked})
    console.print(f"{len(asked)} memories, {domains} {'domain' if domains == 1 else 'domains'}: {roles}.", highlight=False)
    if own_roles := Counter(m.role for m in asked if m.role):
        console.print(f"Roles are their own: {', '.join(f'{n} {role}' for role, n in own_roles.items())}.", highlight=False)
    if named and (without := left_out(file)):
        why = "without a text or an answer, too short, or the same as one before"
        console.print(f"{without} {'row of the set is' if without == 1 else 'rows of the set are'} left out: {why}.", highlight=False)
    if faults:
        count = f"{len(faults)} {'fault' if len(faults) == 1 else 'faults'}"
        raise UserError(f"{count} in {len(memories)} memories: such a {'set' if named else 'file'} cannot be run.")
    rows = ", ".join(f"{name} with a row of {row}" for name, (_, row) in tokenizers.items())
    console.print(f"Nothing keeps this {'set' if named else 'file'} from being run on {rows}.", highlight=False)
    if house:
        from ..texts.corpus import load_corpus

        with Display(console) as display:
            display.begin("house style" + (", and runs of words shared with the corpus" if corpus else ""))
            departures = style(memories, [t for split in load_corpus().splits.values() for t in split] if corpus else [])
        _listed(departures)
        console.print(f"House style: {len(departures)} departures in {len(memories)} memories.", highlight=False)


def _say_left_out(where: str, reasons: list[str]) -> None:
    """What of a set is not asked there, and why: a few of many."""
    if reasons:
        console.print(f"{where}, {len(reasons)} {'memory is' if len(reasons) == 1 else 'memories are'} left out:", highlight=False)
        _listed([f"  {why}" for why in reasons[:SHOWN]] + [f"  and {len(reasons) - SHOWN} more"] * (len(reasons) > SHOWN))


def _say_rows(name: str, tokenizer: Any, memories: list[Any], named: bool) -> None:
    """How large the row can be for the passages, and must be for the questions; of a set what does not fit is left out."""
    from ..texts.questions import needed

    small = "a row of more leaves texts out" if named else "row can be at most that"
    large = "a row of less leaves questions out" if named else "row must be at least that"
    passages = [(len(tokenizer(m.text, add_special_tokens=False)["input_ids"]), m.id) for m in memories if not m.is_question]
    questions = []
    for m in memories:
        with suppress(UserError):  # what the tokenizer does not give back is told as a fault
            questions += [(needed(m, tokenizer), m.id)] if m.is_question else []
    if passages:
        length, shortest = min(passages)
        console.print(f"Under {name} the shortest text, {shortest!r}, has {length} tokens: {small}.", highlight=False)
    if questions:
        length, longest = max(questions)
        console.print(f"Under {name} the longest question, {longest!r}, needs {length} tokens: {large}.", highlight=False)


def _listed(faults: list[str]) -> None:
    for fault in faults:
        console.print(fault, markup=False, highlight=False)


@store_app.command("ls")
def store_ls(store: StorePath = DEFAULT_STORE) -> None:
    """Every finished stage with its size and the time it took."""

    table = Table(box=None, pad_edge=False)
    for column in ("stage", "key", "what", "seconds", "MB"):
        table.add_column(column, justify="right" if column in ("seconds", "MB") else "left")
    for kind, key, manifest, size in existing_store(store).entries():
        table.add_row(kind, key, manifest["label"], f"{manifest['seconds']:.0f}", f"{size / 1e6:.1f}")
    console.print(table)


@store_app.command("gc")
def store_gc(
    suites: Annotated[
        list[str] | None,
        typer.Argument(help="Suites whose stages stay (without it all shipped ones, and whatever was made of other models)"),
    ] = None,
    store: StorePath = DEFAULT_STORE,
    delete: Annotated[bool, typer.Option("--delete", help="Really delete; without it only shows what would go")] = False,
    all_devices: Annotated[
        bool, typer.Option("--all-devices", help="Also what was made on another kind of device than this machine has")
    ] = False,
) -> None:
    """Remove stages that no suite uses, and left-overs of interrupted ones; what other kinds of devices made stays."""
    from ..running.needs import strangers
    from ..suites.config import load_suite, suite_names

    found = existing_store(store)
    # Of suites that begin with a model that is not here, or is asked for from the hub, no plan can be told.
    untold = [] if suites else [name for name in suite_names() if _begins_elsewhere(load_suite(name))]
    keep: set[str] = set()
    bases: set[str] = set()
    asked: set[str] = set()
    for name in suites or [n for n in suite_names() if n not in untold]:
        run = bound_run([f"suite={name}"], store)
        keep |= {stage.key for stage in run.plan}
        bases.add(run.base.hash)
        asked |= {run.opened(place).hash for place in run.places.values()}
    others = {} if suites else strangers(found, keep | bases)
    elsewhere = set() if all_devices else _made_elsewhere(found)
    gone = found.collect(keep | others.keys() | elsewhere, delete, asked.union(*others.values()))
    for folder, size in gone:
        console.print(f"{folder}  {size / 1e6:.1f} MB", highlight=False)
    if others:
        console.print(
            f"Kept: {len(others)} stages of models that no suite planned here begins with (not planned without their models: "
            f"{', '.join(untold)}). They go where the suites whose stages stay are named.",
            highlight=False,
            soft_wrap=True,
        )
    if left := elsewhere - keep - others.keys():
        made = f"Kept: {len(left)} stages that were made on another kind of device, or were begun and may be of one."
        console.print(f"{made} With --all-devices they go too.", highlight=False, soft_wrap=True)
    console.print(f"{len(gone)} folders, {sum(s for _, s in gone) / 1e6:.1f} MB " + ("deleted." if delete else "would go; add --delete."))


def _made_elsewhere(found: Any) -> set[str]:
    """Keys of stages that were made on another kind of device than this machine's, which no plan made here can name.

    Where there are some, those that were begun and not finished may be such too.
    """
    from ..common.processes import device

    here = device().type
    keys = {manifest["key"] for manifest in found.finished() if str(manifest.get("device", here)).split()[0] != here}
    return keys | ({path.name for path in found.root.glob(".scratch/*")} if keys else set())


def _begins_elsewhere(suite: Any) -> bool:
    from ..models.fetchable import FETCHABLE

    return bool(suite.held) or (suite.model in FETCHABLE and not FETCHABLE[suite.model].here)


@corpus_app.command("show")
def corpus_show(overlap: Annotated[bool, typer.Option(help="Also measure the residual overlap (two minutes)")] = False) -> None:
    """Documents per split, coverage of the manifest, and the residual overlap of the held-out splits."""
    from ..texts.corpus import load_corpus, residual_overlap

    with Display(console) as display:
        display.begin("reading the corpus")
        corpus = load_corpus()
        display.begin("measuring the overlap")
        overlaps = residual_overlap(corpus) if overlap else {}
    sizes = ", ".join(f"{len(v):,} {k}" for k, v in corpus.splits.items())
    console.print(f"{corpus.name}: {sizes} documents, coverage {corpus.coverage:.2%}, key {corpus.key}", highlight=False)
    for split, found in overlaps.items():
        console.print(
            f"{split}: {found['mean_share']:.2%} of 8-word runs also in train on average; "
            f"{found['mostly_in_train']:.2%} of the documents have most of theirs there",
            highlight=False,
        )


@corpus_app.command("freeze")
def corpus_freeze(out: Annotated[Path, typer.Argument(help="The manifest to write")]) -> None:
    """Write a manifest of the docstrings installed here (for maintainers; published tracks use the shipped one)."""
    from ..common.paths import writable
    from ..texts.corpus import write_manifest

    writable(out)
    with Display(console) as display:
        display.begin("reading and comparing the docstrings installed here")
        write_manifest(out)
    console.print(f"Wrote {out}.")
