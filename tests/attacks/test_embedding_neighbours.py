"""Words are replaced by mutual nearest neighbours in the base model's mean-centred embedding."""

from __future__ import annotations

import re

import numpy as np
import pytest

from palimpsest.attacks.embedding_neighbours import EmbeddingNeighbours, neighbours
from palimpsest.benchmark.attack import Tools
from palimpsest.benchmark.attack_tools.rewording import whole_words
from palimpsest.benchmark.attack_tools.synonyms import cased
from palimpsest.benchmark.models.subject import open_subject
from palimpsest.benchmark.texts.memories import encode, load_memories


@pytest.fixture(scope="module")
def judge() -> Tools:
    return Tools(open_subject("pocket-small"), 3)


@pytest.mark.parametrize("near", [1, 8])
def test_neighbours_are_mutual_nearest_by_centred_cosine(near: int, judge: Tools) -> None:
    words = whole_words(judge)
    rows = judge.base.model.get_input_embeddings().weight.detach().double().numpy()[list(words)]
    rows = rows - rows.mean(0)
    cosine = (rows @ rows.T) / np.linalg.norm(rows, axis=1)[:, None] / np.linalg.norm(rows, axis=1)[None]
    np.fill_diagonal(cosine, -2)
    names, nearest = list(words.values()), np.argsort(-cosine, axis=1, kind="stable")[:, :near].tolist()
    found = neighbours(judge, near)
    assert list(found) == names
    expected = {names[a]: tuple(names[b] for b in nearest[a] if a in nearest[b]) for a in range(len(names))}
    assert sum(found[w] != expected[w] for w in names) <= 2, "ties in fp32"
    assert all(word in found[other] for word, others in found.items() for other in others)
    assert all(word not in others for word, others in found.items())
    assert max(map(len, found.values())) <= near


def test_without_the_mean_neighbours_would_be_others(judge: Tools) -> None:
    words = whole_words(judge)
    rows = judge.base.model.get_input_embeddings().weight.detach().double().numpy()[list(words)]
    raw = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = raw @ raw.T - 4 * np.eye(len(raw))
    names = list(words.values())
    assert neighbours(judge, 1) != {names[a]: (names[b],) for a, b in enumerate(cosine.argmax(1)) if cosine[b].argmax() == a}


def test_neighbours_mean_something(judge: Tools) -> None:
    found = neighbours(judge, 8)
    assert "three" in found["two"]
    assert set(found["the"]) & {"a", "an", "its", "their", "this"}


def test_only_words_of_one_token_after_a_space_are_replaced_by_their_neighbours(judge: Tools) -> None:
    asked, found = 0, neighbours(judge, 8)
    for m in (encode(m, judge.tokenizer, 160) for m in load_memories()[3::24]):
        old = re.split(r"(\W+)", m.memory.opening)
        for p in EmbeddingNeighbours().probes(m, judge):
            new = re.split(r"(\W+)", judge.decode(p.prompt))
            changed = [(a, b, i) for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b and {a.lower(), b.lower()} != {"a", "an"}]
            assert changed
            for a, b, i in changed:
                assert old[i - 1].endswith(" ")
                assert len(judge.encode(" " + a)) == 1
                assert b in found[a] or (b in ("a", "an") and {"a", "an"} & set(found[a]))
                assert b == cased(b.lower(), a)
            assert (p.target, p.offset, p.start) == (m.target, m.opening, -1)
            asked += 1
    assert asked > 8 * 6
