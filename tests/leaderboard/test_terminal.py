"""The table on a terminal: 80 characters are enough, and no number, title or name is cut or broken."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from rich.console import Console

from palimpsest.benchmark.common.types import Results
from palimpsest.leaderboard.grids import main_columns
from palimpsest.leaderboard.tables import MainTable, main_table
from palimpsest.leaderboard.terminal import SHOWN, print_table

from ..synthetic import battery, results

LONG = "./a-folder/of-mine/a_long_file_name.py:AMethodWithALongName"


@cache
def case(name: str) -> tuple[Results, MainTable]:
    made = MADE[name]()
    return made, main_table(made)


@cache
def printed(name: str, width: int = 80) -> str:
    out = io.StringIO()
    print_table(case(name)[0], Console(file=out, width=width))
    return out.getvalue()


def shown(table: MainTable) -> list[str]:
    """Every value and interval that the table must print, in reading order."""
    columns = [read for title, read in main_columns(table, seeds=False).items() if title in SHOWN]
    found = []
    for row in table.rows:
        cells = [read(row) for read in columns]
        found += [part for line in ([c.text for c in cells], [c.interval for c in cells]) for part in line if part]
    return found


def rows_of(text: str) -> str:
    """The lines between the rule and the next empty line."""
    return re.search(r"─+\n(.*?)\n\n", text, re.DOTALL).group(1)  # type: ignore[union-attr]


MADE: dict[str, Callable[[], Results]] = {
    "three seeds": lambda: results(bits={"weak": 1.05, "strong": 1.10, "none": 1.01, "retrain": 1.9}),
    "one seed": lambda: results(seeds=(0,), memories=24, bits={"weak": 1.3, "strong": 1.10}),
    "flags": lambda: replace(battery(memories=12), quality=results(bits={"weak": 1.5}, memories=3, seeds=(0, 1)).quality),
    "long names": lambda: results(("none", "goldfish_retrain", LONG), memories=9, seeds=(0,)),
    "a model that is far gone": lambda: results(("none", "goldfish_retrain"), memories=9, bits={"goldfish_retrain": 250.0}),
}


@pytest.mark.parametrize("name", MADE)
def test_80_characters_are_enough_and_no_number_is_cut_or_broken(name: str):
    text, table = printed(name), case(name)[1]
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert "…" not in text
    want = shown(table)
    assert [part for part in want if part not in text] == [], "each whole, on one line"
    # Ranks apart. An interval that is broken over two lines holds a line's end.
    numbers = re.compile(r"\[[^\]]*\]|(?<!rank )(?<!\S)[−∞\d.]+(?!\S)|(?<!\d)–")
    assert numbers.findall(rows_of(text)) == [part for part in want if numbers.fullmatch(part)], "in order, and none twice"


def test_a_wide_terminal_gets_the_same():
    assert printed("one seed", 200) == printed("one seed")


def test_titles_stand_whole_above_their_columns():
    lines = printed("three seeds").splitlines()
    rule = next(i for i, line in enumerate(lines) if line.startswith("─"))
    assert lines[rule - 2].split() == ["Exact", "Worst", "Excess", "Leak", "Damage", "Keeps"]
    assert lines[rule - 1].split() == ["Method", "%", "tokens", "tokens", "%", "%", "%"]
    ends = [m.end() for m in re.finditer(r"\S+", lines[rule - 2])]
    assert ends == [m.end() for m in re.finditer(r"\S+", lines[rule - 1])][1:]
    for line in lines[rule + 1 : rule + 3]:
        assert {m.end() for m in re.finditer(r"\[[^\]]*\]|\d+\.\d(?=\s|$)", line)} <= set(ends), "numbers end where their title ends"


def test_a_name_that_is_too_long_stands_on_a_line_of_its_own():
    lines = printed("long names").splitlines()
    assert any(line.startswith(LONG) and len(line.split()) <= 2 for line in lines)
    assert any(line.startswith("goldfish_retrain") and len(line.split()) > 4 for line in lines), "others stand beside their numbers"


def test_the_words_are_explained_one_to_a_paragraph_and_the_run_is_warned_of():
    text = printed("three seeds")
    starts = [line.split(":")[0] for line in text.splitlines() if re.match(r"[A-Z][a-z]+: ", line)]
    assert starts == ["Exact", "Worst", "Excess", "Leak", "Damage", "Keeps", "Warning"]
    for word in ("none", "strong *", "retrain †", "[98.0, 100.0]", "coverage is 90%", "Worst %, Severity %,"):
        assert word in text


def test_a_narrower_terminal_still_gets_every_number():
    text = printed("one seed", 60)
    assert max(map(len, text.splitlines())) <= 60
    assert all(part in text for part in shown(case("one seed")[1]))
