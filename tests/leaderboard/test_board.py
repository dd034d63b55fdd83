"""The board from made-up entries: what a stranger wrote stays text; the same entries give the same bytes."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from palimpsest.benchmark.cli import app
from palimpsest.benchmark.common.budget import Budget
from palimpsest.benchmark.common.errors import UserError
from palimpsest.leaderboard.board import charts
from palimpsest.leaderboard.board.curves import curves_of
from palimpsest.leaderboard.board.ranking import ANY
from palimpsest.leaderboard.board.rows import tracks
from palimpsest.leaderboard.board.shelf import by_name, shelf
from palimpsest.leaderboard.board.site import MARK, beside, differences, site, write
from palimpsest.leaderboard.entry import Entry, entry_from
from palimpsest.leaderboard.entry_values import Number

from ..board import SEEDS, made, only_draw, said

LOOSE = Budget(ANY, ANY)
BAD = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'$&|`[x](javascript:1)"


@pytest.fixture(scope="module")
def three() -> list[Entry]:
    """One verified, one over budget, one reference."""
    return [made("scalpel", 0.1, 4, verified="rescore"), made("hammer", 0.02, 98), made("none", 1.0, 0)]


@pytest.fixture(scope="module")
def pages(three: list[Entry]) -> dict[str, str]:
    """The site with the figures of one row, since drawing takes a while."""
    with pytest.MonkeyPatch.context() as patch:
        only_draw(patch, "scalpel")
        return site(three)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    only_draw(monkeypatch)


# ---- what is refused


def test_entries_lie_where_they_say(tmp_path: Path) -> None:
    entry = made("weak", 0.5, 4)
    file = tmp_path / "entries/made-up/weak.json"
    file.parent.mkdir(parents=True)
    file.write_text(entry.as_json(), "utf-8")
    assert shelf(tmp_path / "entries") == [entry]
    file.rename(file.with_name("strong.json"))
    with pytest.raises(UserError, match=r"expected it at made-up/weak\.json"):
        shelf(tmp_path / "entries")
    file.with_name("strong.json").unlink()
    (tmp_path / "outside.json").write_text(entry.as_json(), "utf-8")
    file.symlink_to(tmp_path / "outside.json")
    with pytest.raises(UserError, match="expected a plain file"):
        shelf(tmp_path / "entries")
    with pytest.raises(UserError, match="no folder of entries"):
        shelf(tmp_path / "nowhere")


def test_names_that_a_file_system_takes_for_one_are_refused() -> None:
    with pytest.raises(UserError, match="more than capitals"):
        by_name([made("weak", 0.5, 4), made("Weak", 0.5, 4)])
    with pytest.raises(UserError, match="names no track"):
        by_name([made("weak", 0.5, 4, track="")])


def test_an_entry_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "made-up/weak.json"
    file.parent.mkdir()
    with file.open("wb") as out:
        out.truncate(2**23)
    with pytest.raises(UserError, match=r"8\.0 MiB"):
        shelf(tmp_path)


# ---- what strangers wrote


class Tags(HTMLParser):
    """Every element with its attributes, and every text outside scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def hostile() -> dict[str, str]:
    """A track whose entry says BAD wherever it may say anything."""
    plain = made(
        "weak", 0.5, 4, verified="rescore", doc=BAD, method="weak", tuned_on=BAD + "\u202e", package=BAD, saw=(BAD,), config={BAD: BAD}
    )
    text = replace(said("weak"), memory=BAD, role=BAD, prompt=BAD, truth=BAD, said={"none": BAD, "weak": BAD, BAD: BAD})
    bad = replace(
        json_with(plain, {"prefix": BAD}),
        excerpts=(text,),
        curve=tuple(replace(p, field=BAD) for p in plain.curve),
        machine=replace(plain.machine, device=BAD, precision=BAD),
        versions=replace(plain.versions, palimpsest=BAD, commit=BAD, libraries={BAD: BAD}),
        hashes=replace(plain.hashes, base=BAD, models={BAD: BAD}),
        paper="https://example.org/a(b)|c",
    )
    with pytest.MonkeyPatch.context() as patch:
        only_draw(patch, "weak")
        return {"README.md": beside([bad])["README.md"], **site([bad, made("other", 0.2, 4)])}


def json_with(entry: Entry, names: dict[str, str]) -> Entry:
    """The entry with other words for attacks, memories, flags and the like, read back strictly."""
    text = entry.as_json()
    for old, new in names.items():
        text = text.replace(json.dumps(old), json.dumps(new))
    changed = json.loads(text)
    for values in (changed["claimed"], changed["verified"]["values"]):
        values["damage_of"] = BAD
        values["relearned"][0] |= {"attack": BAD, "dose": BAD}
        values["flags"][0] |= {"mark": BAD, "name": BAD}
    changed["verified"]["by"] = BAD
    changed["memories"]["by_seed"][0]["forget"][0] = BAD
    return entry_from(json.dumps(changed))


def test_nothing_that_an_entry_says_becomes_markup(hostile: dict[str, str]) -> None:
    for path, page in hostile.items():
        if not path.endswith(".html"):
            continue
        found = Tags(page)
        scripts = [a for tag, a in found.tags if tag == "script"]
        assert all(a.get("src", "").endswith("assets/board.js") or a.get("type") == "application/json" for a in scripts), path
        assert not [tag for tag, _ in found.tags if tag in ("img", "iframe", "object", "embed", "foreignobject")], path
        assert not [a for _, attrs in found.tags for a in attrs if a.startswith("on")], path
        links = [a["href"] for tag, a in found.tags if tag == "a" and a.get("href")]
        assert all(re.match(r"(https://example\.org/|\.\./|[a-z#])", link) and not link.startswith("javascript") for link in links), links
    row = Tags(hostile["tracks/made-up/rows/weak.html"])
    shown = "".join(row.texts)
    assert shown.count(BAD) > 20, "it is shown as it is"
    assert "\u202e" not in shown, "no mark turns the text after it"


def test_figures_stay_well_formed_whatever_names_say(hostile: dict[str, str]) -> None:
    drawings = re.findall(r"<svg role=.*?</svg>", hostile["tracks/made-up/rows/weak.html"], re.DOTALL)
    assert len(drawings) == 5
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert not [e for e in root.iter() if e.tag.rpartition("}")[2] in ("script", "image", "foreignObject", "a")]
        assert [e for e in root.iter() if e.tag.endswith("text")], "text stays text"


def test_data_for_the_script_closes_no_element(hostile: dict[str, str]) -> None:
    page = hostile["tracks/made-up/compare.html"]
    (data,) = re.findall(r'<script type="application/json" id="lengths">(.*?)</script>', page, re.DOTALL)
    assert "<" not in data
    assert BAD in {e["seeds"][0]["forget"][0] for e in json.loads(data)["entries"]}


def test_markdown_holds_no_markup_and_no_broken_row(hostile: dict[str, str]) -> None:
    lines = hostile["README.md"].splitlines()
    assert not [line for line in lines if re.search(r"(?<!\\)<(?!http)", line)]
    tables = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {16, 8}, "rows, and what budgets buy"


# ---- files


@pytest.mark.usefixtures("undrawn")
def test_the_same_entries_give_the_same_bytes_in_any_order(three: list[Entry]) -> None:
    again = [entry_from(e.as_json()) for e in reversed(three)]
    assert site(again) == site(three)
    assert beside(again)["README.md"] == beside(three)["README.md"]


def test_the_same_entry_gives_the_same_figures(three: list[Entry], pages: dict[str, str]) -> None:
    again = entry_from(three[0].as_json())
    (curve,), leak = curves_of([again])
    found = (charts.operating(curve, leak), charts.survived(again), charts.bars(again), charts.trained(again.trajectory))
    for drawn in (*found, charts.relearned(again.claimed.relearned)):
        assert len(drawn) > 1000
        assert drawn in pages["tracks/made-up/rows/scalpel.html"]


def test_every_link_leads_to_a_file_of_the_site(pages: dict[str, str]) -> None:
    for path, page in pages.items():
        if path.endswith(".html"):
            assert MARK in page
            found = [a.get("href") or a.get("src") for tag, a in Tags(page).tags if tag in ("a", "link", "script")]
            for link in [x for x in found if x and not x.startswith(("#", "https:"))]:
                target = (Path("/site") / path).parent / link
                assert str(Path(*[p for p in target.resolve().parts[2:]])) in pages, (path, link)


def test_a_page_of_a_row_has_every_part(pages: dict[str, str]) -> None:
    page = pages["tracks/made-up/rows/scalpel.html"]
    for part in ("operating", "survived", "bars", "trained", "relearned"):
        assert f'id="{part}-figure_1"' in page
    assert page.count('<table class="heat">') == len(SEEDS)
    assert '<mark>the ferry left at </mark><b class="first" aria-label="first difference"></b>noon' in page
    for word in ("rescore", "2026-11-27", "b" * 64, "2.13.0", "validation memories", "the resolved suite"):
        assert word.lower() in page.lower()


def test_an_entry_without_curve_trajectory_and_texts_has_a_page() -> None:
    bare = made("bare", 0.1, 4, curve=(), trajectory=(), excerpts=())
    bare = replace(bare, claimed=replace(bare.claimed, relearned=()))
    pages = site([bare])
    page = pages["tracks/made-up/rows/bare.html"]
    assert ("operating-figure" in page, "survived-figure" in page) == (False, True)
    for what in ("No trajectory of training", "No trajectory of relearning", "No operating curve"):
        assert what in page
    assert "What a budget buys" not in page + pages["tracks/made-up/index.html"] + beside([bare])["README.md"]


def test_figures_are_empty_where_nothing_was_measured() -> None:
    assert charts.relearned(()) == charts.trained(()) == ""
    unmeasured = replace(made("a", 0.1, 4).curve[0], leak=Number(None), tokens=Number(None))
    (curve,), leak = curves_of([made("a", 0.1, 4, curve=(unmeasured,))])
    assert charts.operating(curve, leak) == ""


def test_ranks_for_every_choice_stand_in_the_page(pages: dict[str, str]) -> None:
    (data,) = re.findall(r'id="choices">(.*?)</script>', pages["index.html"], re.DOTALL)
    found = json.loads(data)["ranks"]["made-up/hammer"]
    assert found["black-box"]["10/25"] == "over budget: collateral 98.0"
    assert found["weights"]["any/any"] == "1"


@pytest.mark.usefixtures("undrawn")
def test_rows_made_from_other_inputs_are_named() -> None:
    mine, other = made("mine", 0.1, 4), made("other", 0.2, 4)
    page = site([mine, replace(other, hashes=replace(other.hashes, memories="f" * 16))])["tracks/made-up/index.html"]
    assert "not all made from the same memories" in page


def test_writing_replaces_a_board_and_nothing_else(tmp_path: Path, pages: dict[str, str]) -> None:
    folder = tmp_path / "site"
    assert set(write(pages, folder)) == set(pages)
    assert write(pages, folder) == []
    fewer = {path: text for path, text in pages.items() if "hammer" not in path}
    assert differences(fewer, folder) == ["tracks/made-up/rows/hammer.html"]
    (folder / "tracks/made-up/rows/mine.html").write_text("not of the board")
    assert write(fewer, folder) == ["tracks/made-up/rows/hammer.html"]
    assert (folder / "tracks/made-up/rows/mine.html").is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds no board"):
        write(pages, tmp_path / "other")


@pytest.mark.usefixtures("undrawn")
def test_the_command_rebuilds_and_check_tells(tmp_path: Path) -> None:
    def run(*more: str) -> Any:
        return CliRunner().invoke(app, ["board", "--entries", str(tmp_path / "entries"), *more])

    file = tmp_path / "entries/made-up/weak.json"
    file.parent.mkdir(parents=True)
    file.write_text(made("weak", 0.5, 4, curve=(), trajectory=()).as_json(), "utf-8")
    assert isinstance(run("--check").exception, UserError), "nothing is there yet"
    assert not (tmp_path / "README.md").exists()
    assert run().exit_code == 0
    assert run("--check").exit_code == 0
    shutil.rmtree(tmp_path / "site")
    assert run("--check").exit_code == 0, "as in a fresh clone, which has no site"
    assert isinstance(run("--check", "--to", str(tmp_path / "site")).exception, UserError), "that one was asked for"
    with (tmp_path / "README.md").open("a") as page:
        page.write("edited by hand\n")
    found = run("--check")
    assert str(found.exception).startswith("1 of ")
    assert found.exit_code == 1


def test_no_entries_make_an_empty_board() -> None:
    assert "There are no entries yet." in beside([])["README.md"]
    assert "There are no entries yet." in site([])["index.html"]
    assert tracks([]) == []
