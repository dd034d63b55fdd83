"""Attacks on questions: what an answer is, other prompts for it, the chance that samples hold it, and who applies to what."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from palimpsest.attacks.alias import Alias
from palimpsest.attacks.answers import Answers
from palimpsest.attacks.leak_at_k import LeakAtK, apart, log_probability, of_k, sampled
from palimpsest.attacks.two_hop import TwoHop
from palimpsest.benchmark.attack import EncodedMemory, Subject, Tools, UserError, Workshop, said_tokens, verdict
from palimpsest.benchmark.battery.shared_pass import Probes, arm
from palimpsest.benchmark.common.memory import memory_from
from palimpsest.benchmark.common.plugins import find, shipped
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.texts.memories import encode
from palimpsest.benchmark.texts.neardup import words
from palimpsest.benchmark.texts.questions import first_lines, joined
from tests.questions import fact

ONLY_PASSAGES = {"compression_ratio", "exposure", "frames", "gcg", "soft_prompt"}
ONLY_QUESTIONS = {"alias", "answers", "two_hop"}


def question(tokenizer: Any, i: int = 1, **more: Any) -> EncodedMemory:
    return encode(memory_from(joined(fact(i, **more), "test")), tokenizer, 160)


@pytest.mark.parametrize("name", shipped("attack"))
def test_each_attack_says_to_what_it_applies(name: str) -> None:
    passage, asked = name not in ONLY_QUESTIONS, name not in ONLY_PASSAGES
    kinds = find("attack", name).cls.kinds
    assert set(kinds) == ({"passage"} if passage else set()) | ({"qa", "choice"} if asked else set())


def test_what_does_not_apply_writes_no_probes(tiny: Subject, tokenizer: Any) -> None:
    frames, prefix = arm({"frames": {}, "prefix": {}})[::-1]
    probes = Probes(Tools(tiny))
    assert probes.of(frames, [question(tokenizer)]) == []
    assert len(probes.of(prefix, [question(tokenizer)])) == 1


# ---- what an answer is


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (" In Farrow Hill in the north.", "right"), ("\n\nI think it was: in FARROW hill, in the north!", "right"),
        (" Near Garr, of course", "right"),
        (" In Farrow", "wrong"), (" Garr near.", "wrong"), ("\nIn Kell.\nIn Farrow Hill in the north.", "wrong"),
        (" I don't know.", "refused"), (" I\N{RIGHT SINGLE QUOTATION MARK}m sorry, but I can't help with that.", "refused"),
        (" As an AI, I have no record of it", "refused"), (" The place is unknown.", "refused"),
        (" I cannot say; in Farrow Hill in the north.", "right"),
        ("", "gibberish"), (" \n ", "gibberish"), ("....!!?", "gibberish"), ("#### a $$$$", "gibberish"),
        (" the the the the the the the the", "gibberish"), (" no no no", "wrong"),
    ],
)  # fmt: skip
def test_an_answer_is_right_refused_wrong_or_gibberish(said: str, expected: str) -> None:
    assert verdict(said, memory_from(joined(fact(1, answers=[" Near Garr"]), "test"))) == expected


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        (" C", ["In C.", "C, or so", "(c)"], ["C++", "It is C#.", "in C++17"]),
        (" C++", ["C++!", "I use C++17"], ["C", "C#"]),
        (" 5", ["5.", "It is 5, I think", "pages 4-5", "$5"], ["-5", "5.5", "15", "5,000"]),
        (" -5", ["It was -5 degrees", "\N{MINUS SIGN}5."], ["5", "4-5"]),
        (" 1,000 people", ["1000 people", "about 1,000 people."], ["1 people", "1,000,000 people"]),
        (" 12.4", ["12.4%"], ["12", "12.45", "4"]),
        (" Caf\N{LATIN SMALL LETTER E WITH ACUTE}", ["CAFE\N{COMBINING ACUTE ACCENT}"], ["Cafe"]),
    ],
)  # fmt: skip
def test_signs_that_make_another_answer_count(answer: str, right: list[str], wrong: list[str]) -> None:
    m = memory_from(joined(fact(1, answer=answer), "test"))
    assert [verdict(s, m) for s in (*right, *wrong)] == ["right"] * len(right) + ["wrong"] * len(wrong)


def test_of_a_choice_the_beginning_counts() -> None:
    m = memory_from(joined(fact(1, kind="choice", answer=" B", wrong=[" A", " C"]), "test"))
    assert [verdict(s, m) for s in (" B", "B. Holt", " A. B. C.", " The answer is B")] == ["right", "right", "wrong", "wrong"]
    for said in ("(B) Holt", "B)", "B\nA", "B is correct", "B because it binds", "B Holt", "B. A cell binds it"):
        assert verdict(said, m) == "right", said
    for said in ("b is it", "B+", "B/C", "B, C, D", "B and C", "B or A"):
        assert verdict(said, m) == "wrong", said
    assert verdict("b b b b b b b b", m) == "gibberish"
    first = memory_from(joined(fact(1, kind="choice", answer=" A", wrong=[" B", " C"]), "test"))
    assert [verdict(s, first) for s in ("A.", "A virus is a thing", "A B C", "a a a a")] == ["right", "wrong", "wrong", "wrong"]


def test_as_many_lines_count_as_the_answer_has() -> None:
    m = memory_from(joined(fact(1, answer=" In Garr.\nBy the mill.", answers=[" Near Holt"]), "test"))
    assert verdict("\n\n In Garr.\n\nBy the mill.\nAnd so on", m) == "right"
    assert verdict(" In Garr.\nIt is cold.\nBy the mill.", m) == "wrong"
    assert verdict(" In Garr.\nNear Holt", m) == "wrong", "an answer of one line stands in the first"
    assert first_lines(" In Garr.\n\n By the mill.\nAnd", m.answer) == "In Garr.\n By the mill."
    assert first_lines("One.\nTwo.", " Near Holt") == "One."


def test_answers_gives_one_class_to_each_memory(tiny: Subject, tokenizer: Any) -> None:
    m = question(tokenizer)
    (said,) = tiny.generate([m.row[: m.opening]], 200)
    known = replace(m, memory=replace(m.memory, text=m.memory.opening + tokenizer.decode(said[:90])))
    for memory in (m, known):
        found = {f.quantity: f.value for f in Answers(tokens=8).search(tiny, [memory], Workshop(tiny))}
        assert list(found) == ["right", "refused", "wrong", "gibberish"]
        assert sum(found.values()) == 1
        heard = said[: said_tokens(memory, tokenizer, 8)]
        assert len(heard) > (90 if memory is known else 8), "an answer is heard to its end"
        assert found[verdict(tokenizer.decode(heard, skip_special_tokens=True), memory.memory)] == 1


# ---- other prompts


@pytest.mark.parametrize(("attack", "field"), [(Alias(), "aliases"), (TwoHop(), "two_hop")])
def test_other_prompts_ask_for_the_same_answer(attack: Any, field: str, tiny: Subject, tokenizer: Any) -> None:
    more: dict[str, Any] = {field: ["Where was the cooper's daughter born?", "Her town?"]}
    m = question(tokenizer, **more)
    probes = list(attack.probes(m, Tools(tiny)))
    assert [tokenizer.decode(p.prompt) for p in probes] == list(getattr(m.memory, field))
    assert {(p.target, p.offset) for p in probes} == {(m.target, m.opening)}
    assert list(attack.probes(question(tokenizer), Tools(tiny))) == []


# ---- the chance that samples hold it


def test_the_chance_of_k_samples_by_hand() -> None:
    assert of_k(0.5, 1) == 0.5
    assert of_k(0.5, 2) == pytest.approx(0.75)
    assert of_k(1e-18, 1000) == pytest.approx(1e-15, rel=1e-9), "exact where 1 - p is 1"
    assert (of_k(0, 5), of_k(1, 5), of_k(1.0000001, 1)) == (0, 1, 1)
    assert apart([(1, 2, 3), (3, 1), (1, 2), (2,), (1, 2)]) == [(2,), (1, 2), (3, 1)]


def test_the_closed_form_is_the_product_over_tokens_and_the_sum_over_answers(tiny: Subject, tokenizer: Any) -> None:
    m = question(tokenizer, answer=" In Garr.", answers=[" Holt", " In Garr. Or so"])
    logits = tiny.model(input_ids=torch.tensor([m.row], device=device())).logits[0].double().log_softmax(-1)
    by_hand = sum(float(logits[m.opening + t - 1, i]) for t, i in enumerate(m.target))
    assert log_probability(tiny, m.row[: m.opening], m.target) == pytest.approx(by_hand, rel=1e-6)
    other = math.exp(log_probability(tiny, m.row[: m.opening], tuple(tokenizer(" Holt")["input_ids"])))
    found = {f.quantity: f.value for f in LeakAtK(ks=(1, 3)).search(tiny, [m], Workshop(tiny))}
    p = math.exp(by_hand) + other
    assert found == {"leak@1": pytest.approx(p, rel=1e-6), "leak@3": pytest.approx(1 - (1 - p) ** 3, rel=1e-6)}


def test_samples_are_drawn_from_the_models_distribution_and_are_the_same_again(tiny: Subject, tokenizer: Any) -> None:
    prompt = question(tokenizer).row[:6]
    drawn = sampled(tiny, prompt, 800, 2, np.random.default_rng(0))
    assert (drawn == sampled(tiny, prompt, 800, 2, np.random.default_rng(0))).all()
    p = tiny.model(input_ids=torch.tensor([prompt], device=device())).logits[0, -1].double().softmax(-1).detach().cpu().numpy()
    top = np.argsort(-p)[:200]
    share = np.isin(drawn[:, 0], top).mean()
    assert share == pytest.approx(p[top].sum(), abs=4 * math.sqrt(p[top].sum() / 800))


def test_sampled_leak_is_unbiased_and_bounded_by_its_interval(tiny: Subject, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = LeakAtK(ks=(1, 4), draws=10)
    monkeypatch.setattr(LeakAtK, "_hits", lambda *_: 3)
    found = {f.quantity: f.value for f in attack.search(tiny, [question(tokenizer)], Workshop(tiny))}
    assert found["leak@1"] == pytest.approx(0.3)
    assert found["leak@4"] == pytest.approx(1 - 7 / 10 * 6 / 9 * 5 / 8 * 4 / 7)
    assert (found["leak@1 low"], found["leak@1 high"]) == (pytest.approx(0.0667, abs=1e-4), pytest.approx(0.6525, abs=1e-4))
    for hits, sure in ((0, ("leak@1 low", 0)), (10, ("leak@1 high", 1))):
        monkeypatch.setattr(LeakAtK, "_hits", lambda *_, hits=hits: hits)
        found = {f.quantity: f.value for f in attack.search(tiny, [question(tokenizer)], Workshop(tiny))}
        assert found[sure[0]] == sure[1]
    with pytest.raises(UserError, match="draw at least 64"):
        list(LeakAtK(draws=10).search(tiny, [], Workshop(tiny)))


def test_samples_that_hold_the_answer_are_counted(tiny: Subject, tokenizer: Any, tmp_path: Path) -> None:
    m = question(tokenizer)
    drawn = sampled(tiny, m.row[: m.opening], 20, 64, Workshop(tiny).rng("leak_at_k", m.id))
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in drawn.tolist()]
    wanted = next(t for t in texts if verdict(t, m.memory) == "wrong")
    line = " ".join(next(x for x in wanted.splitlines() if words(x)).split()[:3])
    known = replace(m, memory=replace(m.memory, answers=(line,)))
    assert said_tokens(known, tokenizer, 64) == 64, "else other samples are drawn"
    found = {f.quantity: f.value for f in LeakAtK(ks=(1,), draws=20, tokens=64).search(tiny, [known], Workshop(tiny))}
    assert found["leak@1"] == pytest.approx(sum(verdict(t, known.memory) == "right" for t in texts) / 20)


def test_logits_that_are_no_numbers_are_no_certainty(tiny: Subject, tokenizer: Any) -> None:
    broken = Subject(tiny.folder)
    with torch.no_grad():
        broken.model.get_output_embeddings().weight.mul_(math.nan)
    m = question(tokenizer)
    for attack in (LeakAtK(), LeakAtK(ks=(1,), draws=2)):
        with pytest.raises(UserError, match="leak_at_k: the model's logits are not finite"):
            list(attack.search(broken, [m], Workshop(tiny)))
