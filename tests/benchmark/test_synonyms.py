"""Whole words are replaced with case, spacing and article kept; the table of synonyms is well formed."""

from __future__ import annotations

import re

import pytest

from palimpsest.benchmark.attack_tools.synonyms import cased, substitute, synonyms
from palimpsest.benchmark.common.paths import CONFIGS


def changed(text: str, *pairs: tuple[str, str]) -> str:
    """Replace the first whole-word occurrence of each old word."""
    matches = [(re.search(rf"\b{old}\b", text), new) for old, new in pairs]
    return substitute(text, [(m, new) for m, new in matches if m])


@pytest.mark.parametrize(
    ("text", "pairs", "expected"),
    [
        ("The old house.", [("old", "ancient")], "The ancient house."),
        ("Old houses", [("Old", "ancient")], "Ancient houses"),
        ("AN OLD house", [("OLD", "ancient")], "AN ANCIENT house"),
        ("two  old\n\thouses , here", [("old", "ancient"), ("houses", "homes")], "two  ancient\n\thomes , here"),
        ("a big tree", [("big", "enormous")], "an enormous tree"),
        ("An old tree", [("old", "big")], "A big tree"),
        ("a big tree", [("tree", "oak")], "a big oak"),
        ("Panama a big tree", [("big", "old")], "Panama an old tree"),
        ("a common sight", [("common", "usual")], "a usual sight"),
        ("an old club", [("old", "united")], "a united club"),
        ("a dull room", [("dull", "uninspected")], "an uninspected room"),
        ("a person", [("person", "heir")], "an heir"),
        ("the sea and a great big old tree", [("great", "awful"), ("old", "tall")], "the sea and an awful big tall tree"),
        ("an old house", [("an", "the"), ("old", "big")], "the big house"),
        ("a big house", [("a", "the"), ("big", "old")], "the old house"),
        ("the old house", [("the", "a")], "an old house"),
        ("the big house", [("the", "an")], "a big house"),
        ("The old house", [("The", "a"), ("old", "big")], "A big house"),
        ("on the old house", [("on", "under"), ("the", "a"), ("old", "big"), ("house", "hut")], "under a big hut"),
    ],
)
def test_substitution_keeps_case_and_spacing_and_mends_the_article(text: str, pairs: list[tuple[str, str]], expected: str) -> None:
    assert changed(text, *pairs) == expected


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [("house", "tree", "house"), ("house", "Tree", "House"), ("house", "TREE", "HOUSE"), ("house", "A", "House"), ("API", "tree", "API")],
)
def test_a_word_takes_the_case_of_the_one_that_it_replaces(new: str, old: str, expected: str) -> None:
    assert cased(new, old) == expected


def test_each_line_of_the_table_is_a_word_and_its_alternatives() -> None:
    lines = [line for line in (CONFIGS / "synonyms.txt").read_text("utf-8").splitlines() if line and not line.startswith("#")]
    assert len(lines) > 1000
    assert [line for line in lines if not re.fullmatch(r"[a-z]+(?:'[a-z]+)?: [a-z]+(?:, [a-z]+)*", line)] == []
    heads = [line.partition(":")[0] for line in lines]
    assert heads == sorted(set(heads))


def test_no_word_is_its_own_synonym_or_has_one_twice() -> None:
    assert [w for w, alternatives in synonyms().items() if w in alternatives or len(set(alternatives)) < len(alternatives)] == []
