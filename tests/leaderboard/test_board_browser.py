"""The site in a real headless Chromium, opened from files: sorting, filtering, comparing, colours that can be read, nothing too wide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from palimpsest.benchmark.common.frozen import frozen
from palimpsest.leaderboard.board.site import site, write

from ..board import made, only_draw, track_of
from ..chromium import Page, browser, found

PROGRAM = found()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
PAGES = ("index.html", "tracks/made-up/index.html", "tracks/made-up/compare.html", "tracks/made-up/rows/scalpel.html")
SHOWN = "[...document.querySelectorAll('table.filtered tbody tr')].filter(r => !r.hidden)"
NAMES = f"{SHOWN}.map(r => r.cells[0].textContent)"

# For each text that can be seen: the contrast of its colour with the first opaque ground behind it, by the formula of WCAG 2.
CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (c) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; }
    return rgba("Canvas");
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), low = [], seen = new Set();
  let texts = 0;
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), e = walker.currentNode.parentElement;
    if (!text || e.closest("script, option, .skip") || !e.checkVisibility({visibilityProperty: true})) continue;
    texts += 1;
    const style = getComputedStyle(e), ink = e.closest("svg") ? style.fill : style.color, [a, b] = [light(rgba(ink)), light(ground(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const kind = `${ink} on ${ground(e)}`;
    if (ratio < 4.5 && !seen.has(kind)) { seen.add(kind); low.push(`${text.slice(0, 30)}: ${ratio.toFixed(2)} (${kind})`); }
  }
  return {texts, low};
})()"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tracks of different budgets, the first frozen; one row is verified and has figures, one was not asked by every attack."""
    other = made("lonely", 0.3, 30, track="other", config={"budget": {"damage": 5, "collateral": 30}})
    asked = tuple(a for a in other.claimed.attacks if a.attack != "gcg")
    entries = [made("scalpel", 0.1, 4, verified="rescore"), *track_of()[1:], replace(other, claimed=replace(other.claimed, attacks=asked))]
    made_site = tmp_path_factory.mktemp("board") / "site"
    with pytest.MonkeyPatch.context() as patch:
        only_draw(patch, "scalpel")
        record = frozen("made-up", "2026-11-26", "c" * 40, entries[0].made_from, {})
        write(site(entries, {"made-up": record}), made_site)
    return made_site


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(str(PROGRAM), tmp_path_factory.mktemp("profile")) as started:
        yield started.page()


@pytest.fixture
def page(tab: Page) -> Iterator[Page]:
    tab.errors.clear()
    tab.size(1200)
    tab.scheme("light")
    yield tab
    assert tab.errors == []


def choose(page: Page, name: str, value: str) -> None:
    page.eval(
        f"Object.assign(document.forms[0].elements['{name}'], {{value: '{value}'}}).dispatchEvent(new Event('input', {{bubbles: true}}))"
    )


def sorted_by(page: Page) -> list[str]:
    return page.eval("[...document.querySelectorAll('table.filtered th[aria-sort]')].map(t => t.textContent + ' ' + t.ariaSort)")


def test_the_table_is_sorted_by_click_and_by_keyboard(page: Page, folder: Path) -> None:
    page.open(folder / "index.html")
    assert sorted_by(page) == ["Rank ascending"]
    assert page.eval(NAMES) == ["scalpel", "npo", "grad_diff", "rmu", "lonely", "hammer", "none", "retrain"]
    collateral = "[...document.querySelectorAll('table.filtered th button')].find(b => b.textContent.startsWith('Collateral'))"
    page.eval(f"{collateral}.click()")
    assert sorted_by(page) == ["Collateral, points ascending"]
    assert page.eval(NAMES) == ["none", "retrain", "scalpel", "rmu", "npo", "grad_diff", "lonely", "hammer"]
    page.eval(f"{collateral}.focus()")
    page.press("Enter", 13, "\r")
    assert sorted_by(page) == ["Collateral, points descending"]
    assert page.eval(NAMES)[0] == "hammer"


def test_everything_that_can_be_pressed_is_reached_by_tab(page: Page, folder: Path) -> None:
    page.open(folder / "index.html")
    reached = []
    for _ in range(30):
        page.press("Tab", 9)
        reached.append(page.eval("document.activeElement.name || document.activeElement.textContent.trim().slice(0, 20)"))
    assert reached[0] == "To the content"
    for wanted in ("Dark", "track", "access", "attack", "damage", "collateral", "name", "unranked", "Rank", "Verified"):
        assert wanted in reached, reached


def test_rows_are_filtered_by_track_name_attack_and_standing(page: Page, folder: Path) -> None:
    page.open(folder / "index.html")
    choose(page, "track", "other")
    assert page.eval(NAMES) == ["lonely"]
    choose(page, "track", "")
    choose(page, "name", "RM")
    assert page.eval(NAMES) == ["rmu"]
    choose(page, "name", "")
    choose(page, "attack", "gcg")
    assert "lonely" not in page.eval(NAMES), "it was not asked"
    assert page.eval(f"{SHOWN}.every(r => parseFloat(r.querySelector('.attack').textContent) >= 0)")
    choose(page, "attack", "")
    assert page.eval("document.querySelector('.attack').checkVisibility()") is False
    page.eval("document.forms[0].elements.unranked.click()")
    assert page.eval(NAMES) == ["scalpel", "npo", "grad_diff", "rmu", "lonely"]
    assert page.eval("document.querySelector('.count').textContent").startswith("5 of 8 rows")


def test_ranks_follow_budgets_and_access_level(page: Page, folder: Path) -> None:
    ranks = f"Object.fromEntries({SHOWN}.map(r => [r.cells[0].textContent, r.querySelector('.rank .value').textContent]))"
    page.open(folder / "index.html")
    assert page.eval(ranks)["hammer"] == "–"
    assert page.eval(ranks)["lonely"] == "1", "its own track allows 30 points"
    choose(page, "collateral", "10")
    assert page.eval(ranks) == dict.fromkeys(("hammer", "none", "retrain", "npo", "grad_diff", "rmu", "lonely"), "–") | {"scalpel": "1"}
    choose(page, "collateral", "any")
    choose(page, "access", "weights")
    assert page.eval(ranks)["hammer"] == "1"
    assert page.eval("[...new Set([...document.querySelectorAll('td.chosen')].map(t => t.dataset.level))]") == ["weights"]


def test_two_rows_are_compared_memory_by_memory(page: Page, folder: Path) -> None:
    page.open(folder / "tracks/made-up/compare.html")
    assert page.eval("document.querySelector('#pair tbody').rows.length") == 96
    choose(page, "a", "none")
    choose(page, "b", "retrain")
    choose(page, "by", "exact opening")
    heads = page.eval("[...document.querySelectorAll('#pair th[scope=col]')].map(t => t.textContent)")
    assert heads == ["Memory", "Seed", "none", "retrain", "Diff."]
    count = "document.querySelector('.count').textContent"
    assert page.eval(count).startswith("96 memories")
    choose(page, "b", "none")
    assert "of none on 0, of none on 0, alike on 96" in page.eval(count)


def test_without_scripts_every_table_is_there(page: Page, folder: Path) -> None:
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(folder / "index.html")
    finally:
        page.send("Emulation.setScriptExecutionDisabled", value=False)
    assert page.eval("document.querySelectorAll('table.filtered tbody tr').length") == 8
    assert page.eval("document.forms[0].checkVisibility()") is False
    assert page.eval("document.querySelector('tr.ranked .rank .value').textContent") == "1–2"


def test_the_button_chooses_dark_or_light_and_the_choice_stays(page: Page, folder: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page.open(folder / "index.html")
    light = page.eval(ground)
    page.eval("document.querySelector('.theme').click()")
    dark = page.eval(ground)
    assert dark != light
    page.open(folder / "tracks/made-up/index.html")
    assert page.eval(ground) == dark
    page.eval("localStorage.clear()")
    page.scheme("dark")
    page.open(folder / "index.html")
    assert page.eval(ground) == dark


@pytest.mark.parametrize("path", PAGES)
def test_text_can_be_read_and_nothing_is_too_wide(page: Page, folder: Path, path: str) -> None:
    for width in (390, 1200):
        for scheme in ("light", "dark"):
            page.size(width)
            page.scheme(scheme)
            page.open(folder / path)
            contrast = page.eval(CONTRAST)
            assert contrast["texts"] > 50
            assert contrast["low"] == [], (width, scheme)
            assert page.eval("document.documentElement.scrollWidth") <= width
    wide = (
        "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth && !e.closest('.scroll')).length"
    )
    page.size(390)
    page.eval("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.eval("document.documentElement.scrollWidth") <= 390
    assert page.eval(wide) == 0, "what is wider than a phone scrolls in a region of its own"


def test_nothing_is_asked_of_a_network(page: Page, folder: Path) -> None:
    for path in PAGES:
        page.open(folder / path)
        sources = page.eval("performance.getEntriesByType('resource').map(r => r.name)")
        assert all(s.startswith("file:") for s in sources), sources
        assert page.eval("document.querySelectorAll('img, iframe, link:not([rel=stylesheet])').length") == 0
