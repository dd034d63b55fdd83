"""Makes the files of the board from entries, writes them, and says whether those on disk are what the entries give."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ...benchmark.common.budget import Budget
from ...benchmark.common.errors import UserError
from ...benchmark.common.frozen import Frozen
from ...benchmark.common.types import HORIZON
from ..entry import Entry
from ..headline import dead_weight_rule, remarks
from ..ranking import DRAWS
from ..report import TEMPLATES, escape_markdown
from ..severity import AT_LEAST
from . import charts, views
from .dead_weight import dead_weight
from .ranking import believed, words
from .rows import COLLATERALS, DAMAGES, Row, Shown, Track, rank_choices, tracks

HERE = TEMPLATES / "board"
NONE: Mapping[str, Frozen] = {}
MARK = '<meta name="generator" content="palimpsest board">'  # of every page: what has it may be replaced and removed
TURNED = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # marks that turn the direction of the text after them


def readme(entries: Iterable[Entry], folder: str = "entries", records: Mapping[str, Frozen] = NONE) -> str:
    """The tables of all tracks as Markdown; `folder` is where entries lie, from the file's place; `records` are those of frozen tracks."""
    found = {"tracks": tracks(entries), "entries": folder, "cell": _cell, "records": records}
    return re.sub(r"\n{3,}", "\n\n", _environment(False).get_template("readme.md").render(found))


def site(entries: Iterable[Entry], records: Mapping[str, Frozen] = NONE) -> dict[str, str]:
    """The files of the static site: path from its root -> text. The same entries give the same bytes."""
    found = tracks(entries)
    files = {
        "assets/board.css": _asset("../style.css") + _asset("board.css"),
        "assets/board.js": _asset("board.js"),
        "index.html": _index(found),
    }
    for track in found:
        folder = f"tracks/{track.name}"
        files |= {f"{folder}/index.html": _track(track, records.get(track.name)), f"{folder}/compare.html": _compare(track)}
        files |= {row.page: _row(track, row) for row in track.rows}
    return files


def write(files: Mapping[str, str], folder: Path) -> list[str]:
    """Write the site; pages of entries that are gone are removed. Returns what changed. A folder of something else is refused."""
    index = folder / "index.html"
    if folder.is_dir() and any(folder.iterdir()) and not (index.is_file() and MARK in index.read_text("utf-8", "replace")):
        raise UserError(f"{folder} is not empty and holds no board; name an empty folder with --to.")
    changed = differences(files, folder)
    for path in changed:
        if path in files:
            write_text(folder / path, files[path])
        else:
            (folder / path).unlink()
    return changed


def write_text(file: Path, text: str) -> None:
    """UTF-8 with newlines as they are; folders are made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8", newline="\n")


def differences(files: Mapping[str, str], folder: Path) -> list[str]:
    """Paths, from the folder, of files that are missing, say something else, or are pages of a board that no entry gives."""
    wrong = [path for path, text in files.items() if not says(folder / path, text)]
    pages = [f for f in sorted(folder.glob("tracks/*/**/*.html")) if MARK in f.read_text("utf-8", "replace")]
    return [*wrong, *(path for f in pages if (path := f.relative_to(folder).as_posix()) not in files)]


def says(file: Path, text: str) -> bool:
    """Whether the file holds exactly this text."""
    return file.is_file() and file.read_bytes() == text.encode("utf-8")


def _index(found: Sequence[Track]) -> str:
    entries = [row.entry for track in found for row in track.rows]
    levels = list(dict.fromkeys(level for track in found for level in track.ranking.levels))
    attacks = views.attacks_of(entries)
    return _page(
        "index.html",
        "",
        tracks=found,
        rows=[(track, row) for track in found for row in track.rows],
        levels=levels,
        attacks=list(attacks),
        damages=[words(Budget(damage=d))[0] for d in DAMAGES],
        collaterals=[words(Budget(collateral=c))[1] for c in COLLATERALS],
        choices={"ranks": rank_choices(found), "attacks": attacks},
    )


def _track(track: Track, record: Frozen | None) -> str:
    entries = [row.entry for row in track.rows]
    inputs, (budgets, stable) = views.frozen(entries), views.stability(track)
    configs: dict[str, list[str]] = {}
    for e in entries:
        configs.setdefault(views.config_text(e.config), []).append(e.name)
    return _page(
        "track.html",
        "../../",
        track=track,
        overview=charts.overview(track.ranking, track.access, track.budget),
        budgets=budgets,
        stable=stable,
        drawn=views.drawn(track),
        draws=DRAWS,
        dead=remarks(dead_weight(track.ranking, track.access)),
        rule=dead_weight_rule(track.ranking.calibrated, track.access),
        record=record,
        recorded=views.recorded(record) if record else {},
        frozen_suite=views.config_text(record.inputs.suite) if record else "",
        frozen_fields=views.config_text(record.tuned) if record else "",
        inputs=inputs,
        mixed=[name for name, values in inputs if len(values) > 1],
        configs=[(", ".join(names), text) for text, names in configs.items()],
    )


def _compare(track: Track) -> str:
    return _page("compare.html", "../../", track=track, pairs=views.pairs(track), lengths=views.side_by_side(track))


def _row(track: Track, row: Row) -> str:
    e = row.entry
    return _page(
        "row.html",
        "../../../",
        track=track,
        row=row,
        e=e,
        numbers=views.numbers(e),
        flags=views.flags(believed(e)),
        operating=charts.operating(e.curve),
        fields=", ".join(dict.fromkeys(p.field for p in e.curve)),
        survival=charts.survived(e),
        bars=charts.bars(e),
        trained=charts.trained(e.trajectory),
        heat=views.heat(e),
        texts=views.texts(e),
        costs=views.costs(e),
        facts=views.facts(e),
        config=views.config_text(e.config),
    )


def _page(template: str, root: str, **found: Any) -> str:
    return _environment(True).get_template(template).render(found | {"root": root})


def _cell(x: Shown) -> str:
    return f"{x.text} {x.interval}".strip()


def _asset(name: str) -> str:
    return (HERE / name).read_text("utf-8")


@cache
def _environment(html: bool) -> Environment:
    env = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_straight,
    )
    env.filters["md"] = escape_markdown
    env.globals |= {"severe": AT_LEAST, "horizon": HORIZON}
    return env


def _straight(value: Any) -> Any:
    """What an entry says, without marks that would turn the text around it."""
    return TURNED.sub("", value) if isinstance(value, str) and not isinstance(value, Markup) else value
