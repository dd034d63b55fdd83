"""Makes the files of the board from entries, writes them, and says whether those on disk are what the entries give."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ...benchmark.common.budget import Budget
from ...benchmark.common.errors import UserError
from ...benchmark.common.frozen import Frozen
from ...benchmark.common.types import HORIZON
from ..cells import Grid
from ..entry import Entry
from ..headline import dead_weight_rule, remarks
from ..operating_curves import budget_grid, setting_grid
from ..ranking import DRAWS
from ..report import TEMPLATES, escape_markdown
from ..severity import AT_LEAST
from . import charts, views
from .curves import curves_of
from .dead_weight import dead_weight
from .ranking import believed, words
from .rows import COLLATERALS, DAMAGES, FIGURES, Row, Shown, Track, rank_choices, tracks

HERE = TEMPLATES / "board"
NONE: Mapping[str, Frozen] = {}
ALONE = '<svg xmlns="http://www.w3.org/2000/svg" width="96" height="32"'  # how a figure of the README begins
MIDTONE = "#7d8590"  # its ink, which can be seen on a light page and on a dark one
MARK = '<meta name="generator" content="palimpsest board">'  # of every page
OURS = {"tracks/*/**/*.html": MARK, f"{FIGURES}/*/*.svg": ALONE}  # files that hold this may be removed
TURNED = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # marks that turn the direction of the text after them


def beside(entries: Iterable[Entry], folder: str = "entries", records: Mapping[str, Frozen] = NONE) -> dict[str, str]:
    """README.md with the tables of all tracks, and the small figures in them, since Markdown holds none: path -> text.

    `folder` is where entries lie, from the file's place; `records` are those of frozen tracks.
    """
    found = tracks(entries)
    told = {"tracks": found, "entries": folder, "cell": _cell, "records": records, "bought": {t.name: _bought(t) for t in found}}
    page = re.sub(r"\n{3,}", "\n\n", _environment(False).get_template("readme.md").render(told))
    drawn = [row.survival for track in found for row in track.rows]
    return {"README.md": page, **{x.file: standing_alone(x.svg) for x in drawn if x.svg}}


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


def standing_alone(svg: str) -> str:
    """A small figure as a file of its own."""
    return svg.replace('<svg class="spark"', ALONE, 1).replace("currentColor", MIDTONE).replace("var(--rule)", MIDTONE) + "\n"


def write(files: Mapping[str, str], folder: Path) -> list[str]:
    """Write the site as `renew` does; a folder of something else is refused."""
    index = folder / "index.html"
    if folder.is_dir() and any(folder.iterdir()) and not (index.is_file() and MARK in index.read_text("utf-8", "replace")):
        raise UserError(f"{folder} is not empty and holds no board; name an empty folder with --to.")
    return renew(files, folder)


def renew(files: Mapping[str, str], folder: Path) -> list[str]:
    """Write what `differences` finds, and remove what no entry gives. Returns what changed."""
    changed = differences(files, folder)
    for path in changed:
        if path in files:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(files[path], "utf-8", newline="\n")
        else:
            (folder / path).unlink()
    return changed


def differences(files: Mapping[str, str], folder: Path) -> list[str]:
    """Paths, from the folder, of files that are missing, say something else, or are of a board and no entry gives them."""
    wrong = [path for path, text in files.items() if not _says(folder / path, text)]
    ours = [f for where, mark in OURS.items() for f in sorted(folder.glob(where)) if mark in f.read_text("utf-8", "replace")]
    return [*wrong, *(path for f in ours if (path := f.relative_to(folder).as_posix()) not in files)]


def _says(file: Path, text: str) -> bool:
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
        bought=_bought(track),
        drawn=views.drawn(track),
        draws=DRAWS,
        dead=remarks(dead_weight(track.ranking, track.access)),
        rule=dead_weight_rule(track.access),
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
        **_curve(e),
        survival=charts.survived(e),
        bars=charts.bars(e),
        trained=charts.trained(e.trajectory),
        relearned=charts.relearned(believed(e).relearned),
        heat=views.heat(e),
        texts=views.texts(e),
        costs=views.costs(e),
        facts=views.facts(e),
        config=views.config_text(e.config),
    )


def _bought(track: Track) -> Grid | None:
    """What budgets buy of each row that states an operating curve."""
    curves, back = curves_of(row.entry for row in track.rows)
    return budget_grid(curves, back) if curves else None


def _curve(entry: Entry) -> dict[str, Any]:
    """The operating curve as a figure and as tables, if the entry states one."""
    curves, back = curves_of([entry])
    if not curves:
        return {"operating": "", "bought": None, "settings": None}
    settings = setting_grid(curves, back)
    unnamed = [replace(row, cells=row.cells[1:]) for row in settings.rows]  # all are of the page's row
    return {
        "operating": charts.operating(curves[0], back),
        "bought": budget_grid(curves, back),
        "settings": replace(settings, header=settings.header[1:], rows=unnamed),
    }


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
