"""The page on a phone, as far as can be seen without a browser: what the style sheet and the order of the elements promise."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from matplotlib import rc_context

from palimpsest.benchmark.common.types import Results
from palimpsest.leaderboard import plots
from palimpsest.leaderboard.cells import PHONE, Cell, Grid, GridRow
from palimpsest.leaderboard.grids import grids
from palimpsest.leaderboard.report import TEMPLATES, render
from palimpsest.leaderboard.tables import main_table

from ..synthetic import battery, results

STYLE = (TEMPLATES / "style.css").read_text("utf-8")
COLUMN = 350  # pixels of text across a phone of 390


@pytest.fixture(scope="module")
def made() -> Results:
    return battery(memories=12)


@pytest.fixture(scope="module")
def page(made: Results) -> str:
    return render(made, "html")


@pytest.fixture(scope="module")
def shown(made: Results) -> list[Grid]:
    return grids(main_table(made))


def rules(selector: str) -> Iterator[str]:
    """The declarations of every rule for exactly this selector, those within media queries included."""
    for selectors, body in re.findall(r"([^{};]+)\{([^{}]*)\}", re.sub(r"/\*.*?\*/", "", STYLE, flags=re.DOTALL)):
        if selector in (s.strip() for s in selectors.split(",")):
            yield body


def on_a_phone() -> str:
    return STYLE[STYLE.index("@media (max-width: 36rem)") : STYLE.index("@media print")]


def tables(page: str) -> list[str]:
    """Every figure with a table, from its heading on."""
    return re.findall(r"<h2>[^<]*</h2>\n<figure>.*?</figure>", page, re.DOTALL)


def test_figures_shrink_with_the_page():
    body = " ".join(rules("svg"))
    assert "width: 100%" in body
    assert "height: auto" in body
    assert "min-width" not in body, "a figure that may not shrink is cut at the edge of a phone"


def test_no_figure_stands_in_something_that_scrolls(page: str):
    assert not re.search(r'class="[^"]*scroll[^"]*"[^>]*>\s*<svg', page)


def test_print_in_figures_is_legible_on_a_phone(page: str):
    for svg in re.findall(r"<svg(?! class=.spark).*?</svg>", page, re.DOTALL):
        width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg).group(1))  # type: ignore[union-attr]
        sizes = [float(size) for size in re.findall(r"<text [^>]*?font(?:-size)?: ([\d.]+)px", svg)]
        assert sizes
        assert min(sizes) * COLUMN / width > 9


def test_names_in_the_figure_of_damage_stand_whole_within_it():
    """Matplotlib is asked for the extents, since an SVG says where a text begins and not where it ends."""
    long = "./mine/of_some_length.py:AMethodWithAVeryLongName"
    made = results(("none", "gradient_ascent", long), memories=9, seeds=(0,), bits={"gradient_ascent": 1.12, long: 1.11})
    table = main_table(made)
    with rc_context(plots.STYLE):
        figure = plots.scatter(table, table.rows)
        figure.draw_without_rendering()
        (axes,) = figure.axes
        extents = {text.get_text(): text.get_window_extent() for text in axes.texts}
        assert set(extents) == {"none", "gradient_ascent", "AMethodWithAVeryLongN…"}
        for box in extents.values():
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert axes.bbox.width > 0.6 * figure.bbox.width, "names leave room for the points"


def test_the_numbers_come_before_what_is_said_about_them(page: str, shown: list[Grid]):
    found = tables(page)
    assert len(found) == len(shown)
    for figure in found:
        assert figure.index("<td") < figure.index("</table>") < figure.index("<figcaption>")
    start, first_number = page.index("<h2>"), page.index('<span class="value">')
    assert len(re.sub(r"<[^>]*>|\s", "", page[start:first_number])) < 200, "a heading and the titles of columns, no more"


def test_definitions_are_folded_and_complete(page: str, shown: list[Grid]):
    folded = re.findall(r"<details>.*?</details>", page, re.DOTALL)
    assert len(folded) == 1
    grid = shown[0]
    words = {title.split()[0] for title in grid.header}
    assert words - {"Method", "Seconds"} <= set(re.findall(r"<dt>(.*?)</dt>", folded[0])) <= words
    assert all(text not in page.replace(folded[0], "") for text in ("which every model was trained on", "hidden keep memories that"))


def test_every_table_that_is_wider_than_a_phone_scrolls_and_says_so(page: str, shown: list[Grid]):
    main, *others = zip(shown, tables(page), strict=True)
    assert all('<div class="scroll' in figure for _, figure in (main, *others))
    assert [("scroll sideways" in figure) for _, figure in others] == [bool(grid.overflows) for grid, _ in others]
    assert any(grid.overflows for grid, _ in others)
    assert "display: block" in re.search(r"\.hint \{([^}]*)\}", on_a_phone()).group(1)  # type: ignore[union-attr]
    scroll = " ".join(rules(".scroll"))
    assert "overflow-x: auto" in scroll
    assert scroll.count("linear-gradient") == 4, "a shadow at each edge, and what covers it where nothing is left to scroll"


def test_the_main_table_is_a_block_for_each_method_on_a_phone(page: str, shown: list[Grid]):
    grid, figure = shown[0], tables(page)[0]
    assert 'class="scroll stack"' in figure
    assert re.findall(r'<td data-title="([^"]*)"', figure) == grid.header[1:] * len(grid.rows)
    assert "scroll sideways" not in figure
    assert "attr(data-title)" in " ".join(rules(".stack td::before"))
    assert any("display: grid" in body for body in rules(".stack tr"))


def test_a_table_overflows_by_its_widest_cells():
    def wide(*texts: str) -> str:
        return Grid("k", "t", "c", ["h"] * len(texts), [GridRow([Cell(text) for text in texts])]).overflows

    assert wide("x" * (PHONE // 2), "x") == ""
    assert wide("x" * PHONE, "x") == "phone"
    assert wide(*["x" * PHONE] * 4) == "page"
    assert Grid("k", "t", "c", ["some words in a long title that breaks"], [GridRow([Cell("1")])]).overflows == ""
