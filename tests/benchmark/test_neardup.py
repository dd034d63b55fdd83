"""Near-duplicates: which texts are one cluster, and which share of a text stands in others."""

from __future__ import annotations

import random

import pytest

from palimpsest.benchmark.texts.neardup import clusters, overlap, run_hashes, words
from tests.benchmark.made_up_texts import DOCUMENTS, text, variant


def test_texts_that_share_a_quarter_of_their_runs_are_one_cluster() -> None:
    labels = clusters([text(1), text(2), variant(1), text(3), text(2).upper().replace(" ", ", ")])
    assert labels[0] == labels[2]
    assert labels[1] == labels[4]
    assert len(set(labels)) == 3


def test_a_chain_of_near_duplicates_is_one_cluster() -> None:
    a, b, c = text(1), text(2), text(3)
    chain = [a, a + " " + b, b + " " + c, c, text(4)]
    labels = clusters(chain)
    assert len(set(labels[:4])) == 1
    assert labels[4] != labels[0]


def test_stock_phrases_do_not_link_texts() -> None:
    licence = text(0, 40)
    assert len(set(clusters([f"{licence} {text(i, 40)}" for i in range(1, 66)]))) == 65
    assert len(set(clusters([f"{licence} {text(i, 40)}" for i in range(1, 60)]))) == 1


def test_clusters_do_not_depend_on_chance_or_on_order() -> None:
    texts = DOCUMENTS[:50] + [variant(i) for i in range(10)]
    labels = clusters(texts)
    assert (labels == clusters(texts)).all()
    order = random.Random(0).sample(range(len(texts)), len(texts))
    mixed = clusters([texts[i] for i in order])
    pairs = {(i, j) for a, i in enumerate(order) for b, j in enumerate(order) if mixed[a] == mixed[b]}
    assert pairs == {(i, j) for i in range(len(texts)) for j in range(len(texts)) if labels[i] == labels[j]}
    assert len(pairs) == 60 + 2 * 10


def test_hashes_of_runs_are_the_same_in_every_process() -> None:
    assert [int(h) for h in run_hashes(["one two three four five six seven eight nine"])[0]] == [
        int(h) for h in run_hashes(["One, two; THREE four five six seven eight (nine)!"])[0]
    ]
    assert len(run_hashes(["one two three four five six seven"])[0]) == 0
    first = "alpha beta gamma delta epsilon zeta eta theta"
    assert set(run_hashes([first])[0]).isdisjoint(run_hashes([" ".join(reversed(first.split()))])[0])


def test_overlap_is_the_share_of_runs_found_in_others() -> None:
    sixteen = " ".join(text(1).split()[:16])  # nine runs of eight words
    assert overlap([sixteen], [" ".join(sixteen.split()[:10])]) == pytest.approx([3 / 9])
    assert overlap([sixteen], [text(2)]) == [0]
    assert overlap([sixteen, "too short"], [sixteen]).tolist() == [1, 0]
    assert words("Don't panic: 42 résumés") == ["don't", "panic", "42", "résumés"]
