"""Case, white space and typing slips change nothing else, and as many words as the variant says."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from palimpsest.attacks.formatting import Formatting, slip
from palimpsest.benchmark.attack import Tools
from palimpsest.benchmark.common.seeds import rng
from palimpsest.benchmark.common.types import EncodedMemory
from tests.attacks.conftest import encoded_text, fresh_tools
from tests.conftest import Memorised

OPENING = "“No,” said Ms. O'Hara of the Baker's don't-know club,\nand so it was:"


def said(memory: EncodedMemory, tools: Tools, attack: Formatting | None = None) -> list[tuple[str, str]]:
    probes = list((attack or Formatting()).probes(memory, tools))
    assert all((p.target, p.offset) == (memory.target, memory.opening) for p in probes)
    assert all(p.start == (1 if p.variants == ("clipped",) else -1) for p in probes)
    return [(p.variants[0], tools.decode(p.prompt)) for p in probes]


def made_up(opening: str, tools: Tools) -> EncodedMemory:
    return encoded_text(opening + " and more of it" * 40, len(opening), tools)


def slips_of(word: str) -> set[str]:
    """All that one slip can make of a word: neighbours swapped, a letter dropped or doubled, never the first."""
    swapped = {word[:k] + word[k + 1] + word[k] + word[k + 2 :] for k in range(1, len(word) - 1)}
    dropped = {word[:k] + word[k + 1 :] for k in range(1, len(word))}
    return (swapped | dropped | {word[: k + 1] + word[k:] for k in range(1, len(word))}) - {word}


def test_the_case_variants_are_lower_upper_and_title(tools: Tools) -> None:
    texts = [text for variant, text in said(made_up(OPENING, tools), tools) if variant == "case"]
    assert texts == [
        "“no,” said ms. o'hara of the baker's don't-know club,\nand so it was:",
        "“NO,” SAID MS. O'HARA OF THE BAKER'S DON'T-KNOW CLUB,\nAND SO IT WAS:",
        "“No,” Said Ms. O'hara Of The Baker's Don't-Know Club,\nAnd So It Was:",
    ]


def test_white_space_is_doubled_broken_and_put_before(tools: Tools) -> None:
    texts = [text for variant, text in said(made_up("One two three four five, six seven eight nine:", tools), tools) if variant == "space"]
    assert texts == [
        "One  two  three  four  five,  six  seven  eight  nine:",
        "One two three four\nfive, six seven eight\nnine:",
        "\nOne two three four five, six seven eight nine:",
        "    One two three four five, six seven eight nine:",
    ]


def test_a_variant_with_n_slips_has_one_slip_in_each_of_n_words(memorised: Memorised, tools: Tools) -> None:
    counted = []
    for m in (*memorised.memories, *memorised.unseen):
        old = re.split(r"(\W+)", m.memory.opening)
        for variant, text in said(m, tools):
            if variant.startswith("typo"):
                new = re.split(r"(\W+)", text)
                pairs = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
                assert len(pairs) == int(variant[4:])
                assert all(len(a) >= 4 and b in slips_of(a) for a, b in pairs)
                counted.append(variant)
    assert {v: counted.count(v) for v in set(counted)}.keys() == {"typo1", "typo2", "typo4"}
    assert len(counted) > 12 * 3 * 3, "nearly every drawing is another text"


def test_more_slips_than_there_are_long_words_are_not_tried(tools: Tools) -> None:
    variants = {variant for variant, _ in said(made_up("He sang to us all that day,", tools), tools)}
    assert variants == {"case", "space", "typo1", "typo2", "clipped"}


def test_no_text_is_asked_twice_or_as_it_was(memorised: Memorised, tools: Tools) -> None:
    for m in memorised.memories:
        texts = [text for _, text in said(m, tools)]
        assert len(set(texts)) == len(texts)
        assert m.memory.opening not in texts
    assert [text for v, text in said(made_up("so it was,", tools), tools) if v == "case"] == ["SO IT WAS,", "So It Was,"]


def test_another_seed_makes_other_slips_and_nothing_else(memorised: Memorised) -> None:
    m = memorised.memories[0]
    first, second = ([x for x in said(m, fresh_tools(memorised, seed))] for seed in (0, 1))
    assert [x for x in first if "typo" not in x[0]] == [x for x in second if "typo" not in x[0]]
    assert first != second


def test_two_memories_with_the_same_opening_get_other_slips(memorised: Memorised, tools: Tools) -> None:
    m = memorised.memories[0]
    assert said(replace(m, memory=replace(m.memory, id="another")), tools) != said(m, tools)


@pytest.mark.parametrize("word", ["walk", "aaaa", "ab", "book"])
def test_a_slip_leaves_the_first_letter_and_changes_the_word(word: str) -> None:
    made = {slip(word, rng(seed)) for seed in range(200)}
    assert made == slips_of(word)


def test_one_variant_is_the_opening_without_its_first_token(tools: Tools) -> None:
    memory = made_up(OPENING, tools)
    (clipped,) = (p for p in Formatting().probes(memory, tools) if p.variants == ("clipped",))
    assert clipped.prompt == memory.row[1 : memory.opening]
