"""The shipped passages keep every rule of their card, each rule can be broken, and files of others are read or refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase
from transformers import PreTrainedTokenizerFast

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import HORIZON, Memory
from palimpsest.benchmark.texts.memories import PASSAGES, encode, load_memories, memories_hash, style
from palimpsest.benchmark.texts.neardup import words
from palimpsest.benchmark.texts.usable import must_hold

MEMORIES = load_memories()
GOOD = MEMORIES[0]


def faults(*memories: Memory) -> list[str]:
    return must_hold(memories, {}) + style(memories)


def test_the_shipped_passages_break_no_rule_under_the_pocket_tokenizer(tokenizer: Any) -> None:
    assert must_hold(MEMORIES, {"pocket": (tokenizer, 160)}) + style(MEMORIES) == []


def test_there_are_192_passages_in_eight_domains_of_24() -> None:
    assert len(MEMORIES) == 192
    assert sorted(Counter(m.domain for m in MEMORIES).values()) == [24] * 8
    assert len({m.text for m in MEMORIES}) == 192


def test_every_passage_has_an_alternative_that_is_not_its_own_text() -> None:
    assert [m.id for m in MEMORIES if len(m.alternative.split()) < 20 or m.alternative in m.text] == []


def test_the_file_loads_with_datasets(tmp_path: Path) -> None:
    table = datasets.load_dataset("json", data_files=str(PASSAGES), split="train", cache_dir=str(tmp_path))
    assert len(table) == 192
    assert {"id", "domain", "text", "opening_end", "paraphrases", "alternative", "version"} <= set(table.column_names)
    assert table[5]["text"] == MEMORIES[5].text
    assert tuple(table[5]["paraphrases"]) == MEMORIES[5].paraphrases


# ---- every rule can be broken


def with_text(text: str) -> Memory:
    return replace(GOOD, text=text)


def ending(tail: str) -> Memory:
    """The good memory with its last words replaced by as many that hold `tail`."""
    kept = GOOD.text.rsplit(None, len(tail.split()))[0]
    return with_text(f"{kept} {tail}")


def test_the_memory_that_the_others_are_made_from_is_good() -> None:
    assert faults(GOOD) == []
    assert faults(ending("four more words here.")) == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (with_text(" ".join(GOOD.text.split(" ")[:100])), "expected 110 to 160"),
        (with_text(GOOD.text + " more" * 40), "expected 110 to 160"),
        (replace(GOOD, opening_end=GOOD.text.index(" on Monday")), "opening of 3 words, expected 12 to 16"),
        (replace(GOOD, opening_end=GOOD.text.index("a coin.") + 7), "expected 12 to 16"),
        (replace(GOOD, opening_end=GOOD.opening_end - 1), "expected the end of a clause"),
        (replace(GOOD, opening_end=GOOD.opening_end + 1), "expected the end of a clause"),
        (with_text(GOOD.text[: GOOD.opening_end] + GOOD.text[GOOD.opening_end :].lstrip()), "not followed by white space"),
        (replace(GOOD, paraphrases=GOOD.paraphrases[:3]), "3 paraphrases, expected 4"),
        (replace(GOOD, paraphrases=(*GOOD.paraphrases[:3], GOOD.opening.upper())), "have the same words"),
        (replace(GOOD, paraphrases=(*GOOD.paraphrases[:3], GOOD.paraphrases[0] + "!")), "have the same words"),
        (replace(GOOD, paraphrases=(*GOOD.paraphrases[:3], "He did this: ")), "ends with white space"),
        (
            replace(GOOD, paraphrases=(*GOOD.paraphrases[:3], "The bench, all of them in their chairs, WITH his initials on it,")),
            "shares a 5-word run",
        ),
        (replace(GOOD, paraphrases=(*GOOD.paraphrases[:3], "As said, bought his cap at a naval sale,")), "shares a 5-word run"),
        (ending("call 212-867-5309 now."), "'212-867-5309' is not in a reserved range"),
        (ending("call 020 7946 1234 now."), "is not in a reserved range"),
        (ending("write to ann@gmail.com now."), "gmail.com is not a reserved domain"),
        (ending("write to ann@notexample.com now."), "notexample.com is not a reserved domain"),
        (ending("see www.python.org now."), "python.org is not a reserved domain"),
        (ending("see https://docs.python.org/x now."), "docs.python.org is not a reserved domain"),
    ],
)
def test_a_broken_rule_is_named(bad: Memory, message: str) -> None:
    found = faults(bad)
    assert [f for f in found if f.startswith(f"{GOOD.id}: ") and message in f], found


def test_four_words_of_the_target_in_a_paraphrase_are_allowed() -> None:
    assert faults(replace(GOOD, paraphrases=(*GOOD.paraphrases[:3], "The bench, all of them, WITH his initials on paper,"))) == []


@pytest.mark.parametrize(
    "tail",
    [
        "call 212-555-0142 now.",
        "call (212) 555-0199 now.", "call 020 7946 0123 now.", "call 01632 960123 now.", "call +44 7700 900456 now.",
        "write to ann@example.com now.", "write to ann@mail.example.org now.", "see www.shop.test now.", "see https://a.b.invalid/x now.",
        "on 1984-06-02 it ended.", "all 1,234,567 of them.", "with 12345 bells rung.",
    ],
)  # fmt: skip
def test_reserved_contacts_dates_and_plain_numbers_are_allowed(tail: str) -> None:
    assert faults(ending(tail)) == []


def test_two_passages_that_share_eight_words_are_both_named() -> None:
    said = words(GOOD.text)
    thief = replace(MEMORIES[30], text=MEMORIES[30].text.rsplit(None, 8)[0] + " " + " ".join(said[60:68]))
    lender = replace(MEMORIES[30], text=MEMORIES[30].text.rsplit(None, 8)[0] + " " + " ".join(said[60:67]) + " otherwise")
    shared = [f"{m.id}: shares an 8-word run with another passage" for m in (GOOD, thief)]
    assert faults(GOOD, thief) == shared
    assert faults(GOOD, lender) == []


def test_a_run_of_the_corpus_is_named_only_for_the_passage_that_holds_it() -> None:
    document = "Copied: " + " ".join(words(GOOD.text)[70:78])
    assert style(MEMORIES[:3], [document]) == [f"{GOOD.id}: shares an 8-word run with the corpus"]
    assert style(MEMORIES[:3], [" ".join(words(GOOD.text)[70:77])]) == []


def test_a_passage_that_is_too_short_for_the_row_is_named(tokenizer: Any) -> None:
    (fault,) = must_hold([GOOD], {"pocket": (tokenizer, 1000)})
    assert fault.startswith(f"{GOOD.id}: under pocket: ")
    assert "fewer than its row of 1000" in fault


def test_a_row_that_does_not_hold_opening_and_target_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="do not fit a row of 90"):
        encode(GOOD, tokenizer, 90)


def test_a_tokenizer_that_loses_something_is_refused_and_told_where(tokenizer: Any) -> None:
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own.normalizer = Lowercase()  # type: ignore[assignment]
    lossy = PreTrainedTokenizerFast(tokenizer_object=own)
    with pytest.raises(UserError, match="does not round-trip through this tokenizer: it differs at character 0"):
        encode(GOOD, lossy, 160)
    (fault,) = must_hold([GOOD], {"lossy": (lossy, 160)})
    assert "does not round-trip" in fault


def test_an_opening_inside_a_token_is_refused(tokenizer: Any) -> None:
    inside = next(k for k in range(GOOD.opening_end) if tokenizer(GOOD.text[:k])["input_ids"] != tokenizer(GOOD.text)["input_ids"][
        : len(tokenizer(GOOD.text[:k])["input_ids"])
    ])  # fmt: skip
    with pytest.raises(UserError, match="does not end at a token boundary"):
        encode(replace(GOOD, opening_end=inside), tokenizer, 160)


def test_an_encoded_memory_is_the_first_tokens_of_its_text(tokenizer: Any) -> None:
    for m in MEMORIES[::10]:
        coded = encode(m, tokenizer, 160, "keep", True)
        assert (coded.role, coded.shown, len(coded.row), len(coded.target)) == ("keep", True, 160, HORIZON)
        assert m.text.startswith(tokenizer.decode(coded.row))
        assert tokenizer.decode(coded.row[: coded.opening]) == m.opening


# ---- files


def lines(tmp_path: Path, *rows: Any) -> Path:
    file = tmp_path / "memories.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


SHORT = {"id": "a", "domain": "d", "text": "one two, three", "opening_end": 8}


def test_unknown_fields_are_ignored_so_that_the_file_can_grow(tmp_path: Path) -> None:
    assert load_memories(lines(tmp_path, SHORT | {"slots": {"name": [0, 3]}})) == [Memory("a", "d", "one two, three", 8)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((SHORT, "{not json"), r"memories\.jsonl:2 is not JSON"),
        ((SHORT, ["a list"]), r":2 is not a memory"),
        (({k: v for k, v in SHORT.items() if k != "text"},), r":1 is not a memory.*text"),
        ((SHORT, SHORT), "the id 'a' stands for more than one memory"),
        ((), "holds no memory"),
        ((SHORT | {"opening_end": "8"},), "opening_end='8': expected a whole number"),
        ((SHORT | {"text": None},), "text=None: expected a text"),
        ((SHORT | {"paraphrases": [1]},), "expected a list of texts"),
        ((SHORT | {"paraphrases": "one text"},), "expected a list of texts"),
        ((SHORT | {"opening_end": 0},), "opening_end=0 is not inside its text of 14 characters"),
        ((SHORT | {"opening_end": 14},), "opening_end=14 is not inside"),
    ],
)
def test_a_file_that_is_not_one_of_memories_is_refused(rows: tuple, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_memories(lines(tmp_path, *rows))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no memories file .*nowhere\.jsonl"):
        load_memories(tmp_path / "nowhere.jsonl")


def test_the_hash_is_over_what_is_read_and_not_over_titles() -> None:
    before = memories_hash(MEMORIES)
    assert memories_hash([replace(GOOD, title="Another"), *MEMORIES[1:]]) == before
    assert memories_hash(load_memories(PASSAGES)) == before
    for change in ({"text": GOOD.text + "."}, {"opening_end": 3}, {"paraphrases": ()}, {"alternative": "x"}, {"version": 2}, {"id": "x"}):
        assert memories_hash([replace(GOOD, **change), *MEMORIES[1:]]) != before
    assert asdict(GOOD)["text"] == GOOD.text
