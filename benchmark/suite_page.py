"""`make docs` writes docs/suites.md: shipped suites, every field of a suite with its default, the commands, the environment."""

from __future__ import annotations

import json
import sys
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

import typer

from .cli import app
from .commands.cards import declared
from .common.budget import Budget
from .common.paths import CONFIGS
from .suites.config import CorpusConfig, InjectionConfig, QualityConfig, Suite, suite_names

PAGE = CONFIGS.parent / "docs" / "suites.md"
HEAD = """# Suites and commands

<!-- Written by `make docs` from benchmark/suites/config.py, configs/suites/ and the commands' help texts. Change those, not this page. -->

A suite is a YAML file that says all that a run depends on. Any field of it can be set on the command line, and a file of your own extends
a shipped one:

```yaml
# mine.yaml
extends: quick
model: ./my-model
row: 128
injection: {lr: 2.5e-4}
methods:        # a list of methods, attacks, seeds or strengths replaces the extended suite's
  none:
  retrain:
  npo: {lr: 3.75e-5, epochs: 24}
```

```sh
palimpsest plan suite=mine.yaml                  # what it would do, and how long that takes here
palimpsest run suite=mine.yaml per_role=8        # the report is palimpsest-report/mine/report.html
```

What is said later wins: defaults, then what was tuned for the track (methods alone), then the suite that is extended, the suite, the
command line. `method=NAME` runs `none`, `retrain` and that method alone, `attack=NAME` asks `prefix` and that attack alone. A report
replaces one of the same suite's name: say `name=…` or `--report FOLDER` to keep both. Stages are never replaced; what two runs have in
common is made once.
"""
ENVIRONMENT = """## The environment

| variable | what it sets |
|---|---|
| `PALIMPSEST_STORE` | the folder of finished stages, where `--store` is not given (`palimpsest-store`) |
| `PALIMPSEST_CACHE` | where fetched models, corpora and token ids are kept (`~/.cache/palimpsest`) |
| `PALIMPSEST_WORKER_STORE` | a folder for the stages of [a cluster's](cluster.md) worker that shall not use the run's store |
| `PALIMPSEST_TRACEBACK` | if set, an error is shown with the place in the code where it was raised |
| `HF_HUB_OFFLINE`, `HF_HOME` | the hub's own: use only what was downloaded; where that is |
"""
PARTS = (
    ("", Suite),
    ("corpus", CorpusConfig),
    ("injection", InjectionConfig),
    ("quality", QualityConfig),
    ("budget", Budget),
)


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_suites(), *_fields(), *_commands(), ENVIRONMENT])


def _suites() -> Iterator[str]:
    yield "## The shipped suites"
    yield ""
    yield "| suite | what it is for |"
    yield "|---|---|"
    for name, doc in suite_names().items():
        yield f"| [`{name}`](../configs/suites/{name}.yaml) | {doc} |"
    yield ""


def _fields() -> Iterator[str]:
    yield "## The fields"
    for name, cls in PARTS:
        yield from [*(["", f"### {name}"] if name else []), "", "| field | default | |", "|---|---|---|"]
        hints, defaults = typing.get_type_hints(cls, include_extras=True), cls()
        for field, _, comment in declared(cls):
            words = [w for note in typing.get_args(hints[field])[1:] for w in getattr(note, "words", ())]
            choice = f"{', '.join(words[:-1])} or {words[-1]}" if words else ""
            yield f"| `{field}` | {_default(getattr(defaults, field))} | {'; '.join(filter(None, (comment, choice)))} |"
    yield ""


def _default(value: Any) -> str:
    """As a suite file would say it; a group of fields has a table of its own."""
    if is_dataclass(value):
        return "[below](#" + next(name for name, cls in PARTS if isinstance(value, cls)) + ")"
    return f"`{json.dumps(value)}`" if value not in ("", {}, ()) else "–"


def _commands() -> Iterator[str]:
    yield "## The commands"
    yield ""
    yield "`palimpsest COMMAND --help` has the arguments and options of each."
    yield ""
    yield "| command | what it does |"
    yield "|---|---|"
    for name, command in _below(typer.main.get_command(app), ""):
        yield f"| `palimpsest {name}` | {' '.join((command.help or '').split())} |"
    yield ""


def _below(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The commands that do something, by what is written for them."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word in sorted(inner):
        yield from _below(inner[word], f"{name} {word}".strip())


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")
