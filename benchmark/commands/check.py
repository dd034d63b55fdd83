"""`palimpsest check`: does a plug-in of one's own keep the rules?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.errors import UserError
from .interruption import interruption
from .progress import Display, hush
from .shared import DEFAULT_STORE, StorePath, bound_run, console, escaped


def check(
    plugin: Annotated[str, typer.Argument(help="attack=NAME or attack=./mine.py; method=NAME or method=./forget.py:Forget")],
    fields: Annotated[list[str] | None, typer.Argument(help="Fields that differ from their defaults, e.g. lr=1e-3 epochs=6")] = None,
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Try a plug-in on a small held model, rule by rule; every broken rule says what to do."""
    kind, _, name = plugin.partition("=")
    if kind not in ("attack", "method") or not name:
        raise UserError(f"{plugin!r}: expected attack=NAME or method=NAME, where NAME may be a file such as ./mine.py.")
    if kind == "method":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # on the CPU a training repeats to the bit, and two processes need no second device
    interruption.kept = lambda: "What the check was made on is kept as far as it is finished."
    with Display(console) as display:
        display.begin("loading libraries, corpus and model")
        broken = _check(plugin, kind, name, _values(kind, name, fields or []), store, display)
    if broken:
        raise UserError(f"{plugin}: {broken} {'rule is' if broken == 1 else 'rules are'} broken.")
    console.print(f"{plugin} keeps the rules.")


def _check(plugin: str, kind: str, name: str, given: dict[str, Any], store: Path, display: Display) -> int:
    """Ask rule by rule; how many are broken."""
    from ..conformance.attacks import SUITE, Check, report

    hush()
    run = bound_run([f"suite={SUITE}"], store)
    run.progress = display.update
    checks = _of_method(name, given, run) if kind == "method" else _of_attack(name, given, run)

    def show(found: Check) -> None:
        mark = "[green]kept[/]  " if found.kept else "[red]broken[/]"
        console.print(f"{mark} {found.name}" + (f": {escaped(found.seen)}" if found.seen else ""), highlight=False)
        if not found.kept:
            console.print(f"       {escaped(found.advice)}", highlight=False)
        display.begin(f"{plugin}: the next rule")

    display.begin(f"{plugin}: the first rule")
    return report(checks, show)


def _of_attack(name: str, given: dict[str, Any], run: Any) -> Iterator[Any]:
    from ..battery.shared_pass import arm
    from ..conformance.attacks import SEED, check_attack

    (armed,) = arm({name: given})
    _make([run.held(SEED), run.twin(SEED)], run)
    return check_attack(run, armed)


def _of_method(name: str, given: dict[str, Any], run: Any) -> Iterator[Any]:
    from ..common.plugins import find
    from ..conformance.attacks import SEED
    from ..conformance.methods import check_method, trial_of

    plugin = find("method", name)
    plugin.make(given)
    _make([run.held(SEED)], run)
    return check_method(name, given, trial_of(run, plugin.cls.needs_history))


def _make(stages: list[Any], run: Any) -> None:
    """What a plug-in is tried on, made now if it is not in the store."""
    if not all(run.store.done(s) for s in stages):
        console.print("The first check makes a small model that holds memories (about a minute); later ones reuse it.")
    for stage in stages:
        run.store.ensure(stage)


def _values(kind: str, name: str, fields: list[str]) -> dict[str, Any]:
    """`field=value` as values of the plug-in's own types."""
    from ..suites.config import given_fields

    if wrong := [item for item in fields if "=" not in item]:
        raise UserError(f"{' '.join(wrong)!r}: expected field=value, for example lr=1e-3 epochs=6.")
    return given_fields(kind, name, fields)
