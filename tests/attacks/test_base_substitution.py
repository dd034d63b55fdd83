"""Words are replaced by what the base model finds likely, ranked by how likely it finds the whole opening."""

from __future__ import annotations

import math
import re

import pytest
import torch

from palimpsest.attacks.base_substitution import BaseSubstitution, whole_nats
from palimpsest.benchmark.attack import Tools
from palimpsest.benchmark.attack_tools.rewording import whole_words
from palimpsest.benchmark.attack_tools.synonyms import cased, substitute
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import EncodedMemory
from palimpsest.benchmark.models.subject import open_subject
from palimpsest.benchmark.texts.memories import encode, load_memories


@pytest.fixture(scope="module")
def judge() -> Tools:
    """A base model that has learnt some English."""
    return Tools(open_subject("pocket-small"), 3)


@pytest.fixture(scope="module")
def memories(judge: Tools) -> list[EncodedMemory]:
    return [encode(m, judge.tokenizer, 160) for m in load_memories()[5::24]]


def direct_nats(text: str, judge: Tools) -> float:
    """-log p of a text from the logits, one text at a time."""
    ids = torch.tensor([judge.encode(text)], device=device())
    with torch.no_grad():
        logits = judge.base.model(input_ids=ids).logits[0, :-1].double()
    return -logits.log_softmax(-1).gather(1, ids[0, 1:, None]).sum().item()


def test_candidates_are_ranked_by_the_likelihood_of_the_whole_opening(judge: Tools, memories: list) -> None:
    ranked = 0
    for m in memories:
        for spot, others in BaseSubstitution().options(m, judge):
            nats = [direct_nats(substitute(m.memory.opening, [(spot, new)]), judge) for new in others]
            assert nats == pytest.approx(sorted(nats), rel=1e-5)
            ranked += len(others)
    assert ranked > 100


def test_both_sides_count_in_the_ranking(judge: Tools, memories: list) -> None:
    """What the base model expects from the left alone are the same words in another order."""
    attack, other = BaseSubstitution(), 0
    for m in memories:
        options = attack.options(m, judge)
        left = attack.likely(m.memory.opening, [spot for spot, _ in options], judge)
        assert [sorted(words) for words in left] == [sorted(words) for _, words in options]
        other += sum(a != b for a, (_, b) in zip(left, options, strict=True))
    assert other > len(memories)


def test_candidates_are_whole_words_of_the_top_tokens_in_the_words_case(judge: Tools, memories: list) -> None:
    words, seen = set(whole_words(judge).values()), 0
    for m in memories:
        options = BaseSubstitution(words=50).options(m, judge)
        ids = judge.encode(m.memory.opening)
        with torch.no_grad():
            logits = judge.base.model(input_ids=torch.tensor([ids], device=device())).logits[0]
        for spot, others in options:
            before = judge.encode(m.memory.opening[: spot.start() - 1])
            assert m.memory.opening[spot.start() - 1] == " "
            assert ids[: len(before)] == before
            top = [judge.decode((i,)) for i in logits[len(before) - 1].topk(20).indices.tolist()]
            old = spot.group()
            likely = [t[1:] for t in top if t[:1] == " " and t[1:] in words]
            expected = [w for w in likely if w == cased(w.lower(), old) and w.lower() != old.lower()]
            if old.lower() not in ("a", "an"):
                assert sorted(others) == sorted(expected)
            seen += len(others)
    assert seen > 300


def test_so_many_words_are_drawn_in_their_order(judge: Tools, memories: list) -> None:
    m = memories[0]
    for n in (1, 3, 6):
        spots = [spot.start() for spot, _ in BaseSubstitution(words=n).options(m, judge)]
        assert len(spots) == n
        assert spots == sorted(spots)
    drawn = {tuple(s.start() for s, _ in BaseSubstitution(words=3).options(m, Tools(judge.base, seed))) for seed in range(4)}
    assert len(drawn) > 1


def test_probes_pass_the_filter_and_differ_from_the_opening_in_words_only(judge: Tools, memories: list) -> None:
    asked = 0
    for m in memories:
        (before,) = judge.nats_per_token([m.memory.opening])
        for p in BaseSubstitution().probes(m, judge):
            text = judge.decode(p.prompt)
            assert direct_nats(text, judge) / (len(p.prompt) - 1) <= before + math.log(2) + 1e-4
            assert re.sub(r"\w+", "w", text) == re.sub(r"\w+", "w", m.memory.opening)
            asked += 1
    assert asked > 8 * len(memories)


def test_whole_nats_are_the_sum_over_all_tokens_but_the_first(judge: Tools, memories: list) -> None:
    texts = [m.memory.opening for m in memories]
    assert whole_nats(texts, judge) == pytest.approx([direct_nats(t, judge) for t in texts], rel=1e-5)
