"""The words that ROUGE-L compares: in ASCII those of the library rouge_score, and words of every other script too."""

from __future__ import annotations

import random
import re
import string

import pytest

from palimpsest.benchmark.scoring.published import rouge_l_f1, rouge_l_recall, rouge_words
from palimpsest.benchmark.studies._measures import rouge_l

DRAWN = random.Random(7)
ASCII = [
    "", "The cat sat.", "don't 3.5% of_it", "a-b_c d\te\n", "UPPER lower 1994", "!?", string.printable,
    *("".join(DRAWN.choices(string.printable, k=60)) for _ in range(200)),
]  # fmt: skip


@pytest.mark.parametrize("said", ["Москва", "東京タワー", "Αθήνα", "القاهرة", "दिल्ली", "ประเทศไทย", "서울", "Vásquez", "Łódź", "እንግሊዝ"])
def test_a_text_is_all_of_itself_in_every_script(said: str) -> None:
    assert rouge_l_recall(said, said) == rouge_l_f1(said, said) == pytest.approx(1)
    assert rouge_l_recall(f"a {said}, b", f"{said}.") == pytest.approx(1), "as a word beside others"
    assert rouge_l_recall("Берлин x", said) == rouge_l_f1("Берлин x", said) == 0


def test_scores_of_other_scripts_by_hand() -> None:
    assert rouge_words("Столица — «Москва», 1147!") == ["столица", "москва", "1147"]
    assert rouge_words("दिल्ली की") == ["दिल्ली", "की"], "marks belong to their word"
    assert rouge_words("東京は2020") == ["東", "京", "は", "2020"]
    assert rouge_l_recall("Это столица", "Москва столица") == pytest.approx(0.5)
    assert rouge_l_f1("Столица России Москва", "столица Москва") == pytest.approx(2 * 2 / 5)
    assert rouge_l_recall("京都", "東京") == pytest.approx(0.5)
    assert rouge_l_recall("Caf\u00e9", "cafe\u0301") == pytest.approx(1), "one letter, written in two ways"
    assert rouge_l_recall("V squez", "Vásquez") == 0


@pytest.mark.parametrize("said", ASCII)
def test_in_ascii_words_and_scores_are_those_of_the_library(said: str) -> None:
    other = DRAWN.choice(ASCII) + said[: len(said) // 2]
    assert rouge_words(said) == re.findall("[a-z0-9]+", said.lower()) == rouge_words(said + "…")
    assert rouge_l_f1(said, other) == rouge_l(said, other)
    assert rouge_l_f1(other, said) == rouge_l(other, said)


def test_in_ascii_scores_are_what_the_library_says() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    for said, truth in (("it was in Varnholt, I think", "In Varnholt."), ("a b c d", "a c d b"), ("don't", "do not"), ("", "x")):
        found = scorer.score(truth, said)["rougeL"]
        assert (rouge_l_f1(said, truth), rouge_l_recall(said, truth)) == pytest.approx((found.fmeasure, found.recall))
