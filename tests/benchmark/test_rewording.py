"""The filter of reworded openings, what fits before a target, and which words a vocabulary holds whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from palimpsest.benchmark.attack import Tools
from palimpsest.benchmark.attack_tools.rewording import (
    Options,
    Rewording,
    Substitution,
    fits,
    fitting,
    gives_away,
    led_by,
    once_per_model,
    whole_words,
)
from palimpsest.benchmark.attack_tools.synonyms import WORD
from palimpsest.benchmark.common.types import EncodedMemory
from palimpsest.benchmark.models.subject import Subject, open_subject
from tests.attacks.conftest import encoded_text
from tests.conftest import Memorised

OPENING = "They walked past the big gate at noon,"
REST = " and nobody at the gate could say who had sent them there or why. " + "It rained all day and the road was long. " * 6


@pytest.fixture(scope="module")
def tools(memorised: Memorised) -> Tools:
    return Tools(memorised.base, 3)


@pytest.fixture(scope="module")
def memory(tools: Tools) -> EncodedMemory:
    return encoded_text(OPENING + REST, len(OPENING), tools)


@dataclass(frozen=True)
class Said(Rewording):
    """The wordings that a test gives."""

    said: tuple[tuple[str, str], ...] = ()

    def texts(self, memory: EncodedMemory, tools: Tools) -> Iterator[tuple[str, str]]:
        yield from self.said


@dataclass(frozen=True)
class Numbered(Substitution):
    """Words of the opening, replaced by numbers written as letters."""

    others: int = 3

    def options(self, memory: EncodedMemory, tools: Tools) -> Options:
        found = list(WORD.finditer(memory.memory.opening))
        return [(m, ["x" * (k + 1) for k in range(self.others if i else 0)]) for i, m in enumerate(found)]


def kept(attack: Rewording, memory: EncodedMemory, tools: Tools) -> list[tuple[str, str]]:
    probes = list(attack.probes(memory, tools))
    assert all((p.target, p.offset, p.start, p.cuts) == (memory.target, memory.opening, -1, (0,)) for p in probes)
    return [(p.variants[0], tools.decode(p.prompt)) for p in probes]


# ---- the filter


def test_wordings_are_asked_once_under_the_first_variant_and_never_the_opening_or_nothing(memory: EncodedMemory, tools: Tools) -> None:
    said = (("a", "They went by,"), ("b", "They went by,"), ("a", OPENING), ("a", ""), ("b", "Some of them went by,"))
    assert kept(Said(math.inf, said), memory, tools) == [("a", "They went by,"), ("b", "Some of them went by,")]


def test_a_wording_may_share_four_words_in_a_row_with_the_rest_but_not_five(memory: EncodedMemory, tools: Tools) -> None:
    four, five = "At noon the gate could say who,", "At noon the gate could say who had,"
    assert [gives_away(t, memory.memory) for t in (OPENING, "Gate could say who,", four, five)] == [False, False, True, True]
    assert kept(Said(math.inf, (("a", five), ("a", "Gate could say who,"))), memory, tools) == [("a", "Gate could say who,")]


def test_a_wording_that_does_not_round_trip_is_dropped(memory: EncodedMemory, memorised: Memorised) -> None:
    tools = Tools(memorised.base, 3)
    tools.round_trips = lambda text: "went" not in text  # type: ignore[method-assign]
    assert kept(Said(math.inf, (("a", "They went by,"), ("a", "They came by,"))), memory, tools) == [("a", "They came by,")]


@pytest.mark.parametrize("factor", [1.2, 2.0, 5.0])
def test_a_wording_may_be_so_many_times_as_perplexing_as_the_opening(factor: float, memorised: Memorised) -> None:
    judge, m = Tools(memorised.subject, 3), memorised.memories[0]
    said = tuple(("a", t.memory.opening) for t in (*memorised.memories, *memorised.unseen)) + tuple(("a", p) for p in m.memory.paraphrases)
    before, *after = judge.nats_per_token([m.memory.opening, *(text for _, text in said)])
    expected = [one for one, nats in zip(said, after, strict=True) if one[1] != m.memory.opening and nats <= before + math.log(factor)]
    assert kept(Said(factor, said), m, judge) == expected
    assert len(expected) < len(said)


# ---- substitution


def test_singles_replace_one_word_and_thirds_a_third_of_those_that_can_be(memory: EncodedMemory, tools: Tools) -> None:
    attack = Numbered(math.inf, singles=5, thirds=40)
    written = list(attack.texts(memory, tools))
    old, counts = OPENING.split(" "), {"single": [], "third": []}
    for variant, text in written:
        new = text.split(" ")
        counts[variant].append(sum(a != b for a, b in zip(old, new, strict=True)))
        assert new[0] == old[0], "the first word has no alternatives"
        assert all(a == b or set(b.strip(",")) == {"x"} for a, b in zip(old, new, strict=True))
    assert counts == {"single": [1] * 5, "third": [math.ceil(7 / 3)] * 40}
    assert len({text for variant, text in written if variant == "single"}) == 5, "each single takes another word"
    used = "".join(text for _, text in written)
    assert used.count("xxx") < used.count("x ") / 2, "the closest are taken most often"


def test_an_opening_without_replaceable_words_is_asked_nothing(tools: Tools, memory: EncodedMemory) -> None:
    assert list(Numbered(others=0).probes(memory, tools)) == []


def test_what_is_drawn_depends_on_seed_memory_and_attack_only(memory: EncodedMemory, memorised: Memorised, tools: Tools) -> None:
    other = encoded_text(OPENING + REST, len(OPENING), tools, name="another")
    first = list(Numbered().texts(memory, tools))
    assert first == list(Numbered().texts(memory, Tools(memorised.base, 3)))
    assert first != list(Numbered().texts(memory, Tools(memorised.base, 4)))
    assert first != list(Numbered().texts(other, tools))


def test_a_word_is_replaced_by_another_word_of_its_case() -> None:
    words = ["tree", "Tree", "TREE", "house", "House", "HOUSE", "a", "an", "I", "API"]
    assert fitting(words, "house") == ["tree", "a", "an"]
    assert fitting(words, "House") == ["Tree", "I"]
    assert fitting(words, "HOUSE") == ["TREE", "I", "API"]
    assert fitting(words, "an") == ["tree", "house"]


# ---- what fits, and what stands before


def test_prompt_and_target_fit_up_to_the_last_place_of_the_context(memory: EncodedMemory, memorised: Memorised) -> None:
    base = Subject(memorised.base.folder)
    assert fits((5,) * (512 - 64), memory, Tools(base))
    assert not fits((5,) * (512 - 63), memory, Tools(base))
    base.__dict__["bos"] = 7  # a model with a BOS has one place less
    assert fits((5,) * (512 - 65), memory, Tools(base))
    assert not fits((5,) * (512 - 64), memory, Tools(base))


def test_a_lead_is_read_as_one_text_with_the_opening_and_keeps_the_openings_ids(memory: EncodedMemory, tools: Tools) -> None:
    own = memory.row[: memory.opening]
    for lead in ("\n\n", "It was late.\n", "It was late. ", "Be", ""):
        ids = led_by(lead, memory, tools)
        assert ids[len(ids) - len(own) :] == own
        assert tools.decode(ids) == lead + OPENING
    assert led_by("It was late.\n\n", memory, tools) == tools.encode("It was late.\n\n" + OPENING) != tools.encode("It was late.\n\n") + own


# ---- whole words


def test_whole_words_are_those_that_the_base_model_does_not_go_on_with_letters() -> None:
    tools = Tools(open_subject("pocket-small"))
    found, model = whole_words(tools), tools.base.model
    space = {i: tools.decode((i,)) for i in range(4096)}
    letters = [i for i, piece in space.items() if piece[:1].isalpha()]
    for i in [*range(300, 4096, 61), *tools.encode(" a")]:
        piece = space[i]
        word = (
            piece[1:] if piece[:1] == " " and piece[1:].isascii() and piece[1:].isalpha() and (len(piece) > 2 or piece[1:] in "aI") else ""
        )
        with torch.no_grad():
            share = model(torch.tensor([[i]], device=model.device)).logits[0, 0].softmax(-1)[letters].sum().item()
        if abs(share - 0.5) > 1e-3:
            assert (i in found) == bool(word and share < 0.5)
            assert found.get(i, word) == word
    assert {"the", "function", "values"} <= set(found.values())
    assert {"calcul", "inclu", "m"}.isdisjoint(found.values())
    assert len(found) > 800


def test_what_is_known_of_a_base_model_is_computed_once_for_each(memorised: Memorised) -> None:
    asked = []
    base = Subject(memorised.base.folder)

    @once_per_model
    def slow(tools: Tools, n: int) -> int:
        asked.append(n)
        return n * n

    assert [slow(Tools(base, seed), n) for seed in (0, 1) for n in (3, 4)] == [9, 16, 9, 16]
    assert asked == [3, 4]
    base.release()
    assert slow(Tools(base), 3) == 9
    assert slow(Tools(memorised.subject), 3) == 9
    assert asked == [3, 4, 3, 3]
