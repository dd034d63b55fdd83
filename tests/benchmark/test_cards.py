"""docs/methods.md is what the docstrings and fields of the methods say."""

from __future__ import annotations

import re

import pytest

from palimpsest.benchmark.commands.cards import PAGE, page
from palimpsest.benchmark.common.plugins import find, names
from palimpsest.benchmark.method import Descent

CARDS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page(), re.MULTILINE | re.DOTALL))


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == page(), "run `make docs`"


def test_every_method_of_the_folder_has_a_card_and_a_line_in_the_overview() -> None:
    assert list(CARDS) == names("method")
    assert re.findall(r"^\| \[(\w+)\]\(#\1\) \|", page(), re.MULTILINE) == names("method")


@pytest.mark.parametrize("name", names("method"))
def test_a_card_tells_what_the_method_does_whose_it_is_and_every_default_it_declares(name: str) -> None:
    plugin = find("method", name)
    assert plugin.doc in CARDS[name]
    assert plugin.cls.paper in CARDS[name]  # type: ignore[attr-defined]
    shared = {f for f in Descent.__dataclass_fields__} if issubclass(plugin.cls, Descent) else set()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", CARDS[name], re.MULTILINE))
    assert set(plugin.defaults) - shared <= set(rows)
    assert {k: v for k, v in plugin.defaults.items() if k in rows} == {k: eval(v) for k, v in rows.items()}


@pytest.mark.parametrize("name", [n for n in names("method") if issubclass(find("method", n).cls, Descent)])
def test_the_card_of_a_loss_holds_its_formula(name: str) -> None:
    assert re.search(r"L(_\w+)?\b.* = |theta|v_b", find("method", name).doc), "the first line of the docstring should give the formula"
