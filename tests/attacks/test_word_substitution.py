"""Word substitution changes words of the table only, and asks what the filter lets through."""

from __future__ import annotations

import math
import re

import pytest

from palimpsest.attacks.word_substitution import WordSubstitution
from palimpsest.benchmark.attack import Tools
from palimpsest.benchmark.attack_tools.synonyms import synonyms
from palimpsest.benchmark.common.types import EncodedMemory, Probe
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.texts.neardup import overlap
from tests.attacks.conftest import encoded_text
from tests.conftest import Memorised


def test_only_whole_words_of_the_table_are_replaced(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"sum": ("total",), "won": ("gained",), "house": ("home",), "cat": ("kitten",)}
    monkeypatch.setattr("palimpsest.attacks.word_substitution.synonyms", lambda: table)
    opening = "Résumé in hand, he won’t say, can't, housekeeper, l'house, house's, concat, 'Cat', house_1;"
    memory = encoded_text(opening + " it" * 100, len(opening), tools)
    texts = {tools.tokenizer.decode(p.prompt) for p in WordSubstitution(perplexity=1e9).probes(memory, tools)}
    assert texts == {opening.replace("'Cat'", "'Kitten'")}


@pytest.fixture(scope="module")
def loose(memorised: Memorised, tools: Tools) -> list[tuple[EncodedMemory, list[tuple[str, Probe]]]]:
    """Every substituted opening of the shared memories when perplexity does not matter."""
    attack = WordSubstitution(perplexity=math.inf)
    coded = (*memorised.memories, *memorised.unseen)
    return [(m, [(tools.tokenizer.decode(p.prompt), p) for p in attack.probes(m, tools)]) for m in coded]


def test_substituted_openings_differ_in_table_words_only(loose: list) -> None:
    seen = 0
    for m, texts in loose:
        old = re.findall(r"\w+|\s+|[^\w\s]", m.memory.opening)
        for text, p in texts:
            new = re.findall(r"\w+|\s+|[^\w\s]", text)
            assert len(new) == len(old)
            differing = [(a, b) for a, b in zip(old, new, strict=True) if a != b and a.lower() not in ("a", "an")]
            assert differing
            assert all(b.lower() in synonyms()[a.lower()] for a, b in differing)
            assert all(a[0].isupper() == b[0].isupper() for a, b in differing)
            assert p.variants[0] == "third" or len(differing) == 1
            assert (p.target, p.offset, p.start) == (m.target, m.opening, -1)
            seen += 1
    assert seen > 12 * 5


def test_no_opening_is_asked_twice_or_as_it_was(loose: list) -> None:
    for m, texts in loose:
        said = [text for text, _ in texts]
        assert len(set(said)) == len(said)
        assert m.memory.opening not in said


def test_shipped_substitutions_share_no_run_of_five_words_with_the_rest(loose: list) -> None:
    for m, texts in loose:
        rest = m.memory.text[m.memory.opening_end :]
        assert overlap([text for text, _ in texts], [rest], 5).max(initial=0) == 0


def test_a_substitution_that_gives_the_target_away_is_dropped(tools: Tools) -> None:
    opening = "They walked past the big gate at noon,"
    away = " ".join(f"They walked past the {word} gate at dusk." for word in synonyms()["big"])
    plain = "Nothing of the sort was said by anyone who stood there. " * 6
    attack = WordSubstitution(perplexity=math.inf)

    def singles(rest: str) -> set[str]:
        memory = encoded_text(f"{opening} {rest} {plain}", len(opening), tools)
        texts = {tools.tokenizer.decode(p.prompt) for p in attack.probes(memory, tools)}
        return {t for t in texts if re.search(r"walked past the (?!big)\w+ gate", t)}

    assert singles(plain)
    assert not singles(away)


@pytest.mark.parametrize("factor", [1.05, 2.0, 1e3])
def test_a_variant_may_be_so_many_times_as_perplexing_as_the_opening(factor: float, memorised: Memorised) -> None:
    judge = Tools(memorised.subject, seed=3)
    dropped = 0
    for m in memorised.unseen:
        everything = list(WordSubstitution(perplexity=math.inf).probes(m, judge))
        kept = list(WordSubstitution(perplexity=factor).probes(m, judge))
        (before,) = judge.nats_per_token([m.memory.opening])
        after = judge.nats_per_token([judge.tokenizer.decode(p.prompt) for p in everything])
        assert kept == [p for p, nats in zip(everything, after, strict=True) if math.exp(nats - before) <= factor]
        dropped += len(everything) - len(kept)
    assert (dropped == 0) == (factor == 1e3)


def test_another_seed_draws_other_substitutions(memorised: Memorised, tiny: Subject) -> None:
    attack = WordSubstitution(perplexity=math.inf)
    drawn = [[p.prompt for m in memorised.memories for p in attack.probes(m, Tools(tiny, seed))] for seed in (0, 1)]
    assert drawn[0] != drawn[1]
