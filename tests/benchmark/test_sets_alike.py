"""Which texts of sets and of questions count as the same: those that differ in case, white space and final punctuation alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import EncodedMemory, Memory
from palimpsest.benchmark.texts.memories import load_aside, load_memories
from palimpsest.benchmark.texts.questions import asked_twice, rendered, require_whole
from palimpsest.benchmark.texts.sets.alike import terms
from palimpsest.benchmark.texts.sets.loading import distinct, question, whole

STANDINS = Path(__file__).resolve().parents[1] / "standins"
CHATML = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
TEMPLATES = {
    "none": "{}", "answer": "Question: {}\nAnswer:", "chatml": CHATML,
    "llama": "<|user|>\n\n{}<|eot_id|><|assistant|>\n\n", "inst": "[INST] {} [/INST]",
    "words": "USER: {} ASSISTANT:", "gemma": "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
}  # fmt: skip


def asked(prompt: str, answer: str, **more: Any) -> Memory:
    return Memory("a", "d", prompt + answer, len(prompt), kind="qa", **more)


def groups(*prompts: str) -> list[list[int]]:
    found: list[Any] = [SimpleNamespace(memory=asked(p, " x")) for p in prompts]
    return asked_twice(found)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Paris", " paris."), ("PARIS!", "paris?"), ("a  b\nc", "a b c"), ("Straße", "STRASSE"), ("caf\u00e9", "cafe\u0301"),
        ("Да。", "да"), ("New York ...", "new york…"),
    ],
)  # fmt: skip
def test_case_white_space_and_final_punctuation_do_not_count(one: str, other: str) -> None:
    assert distinct([one, other]) == [one]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("C++", "C#"), ("C++", "C"), ("5", "-5"), ("5 + 3", "5 - 3"), (".NET", "NET"), ("1.5", "15"), ("don't", "dont"), ("?", "!"),
        ("a b", "ab"), ("x < 5", "x > 5"), ("5²", "52"), ("$5", "€5"), ("50%", "50"), ("Москва", "Минск"),
    ],
)  # fmt: skip
def test_all_else_does(one: str, other: str) -> None:
    assert distinct([one, other]) == [one, other]


def test_distinct_texts_stay_in_their_order_and_the_first_of_the_same_is_taken() -> None:
    assert distinct(["a", "b", "A!"]) == ["a", "b"]
    assert distinct(iter(["b", "A", "c", "a", "B."])) == ["b", "A", "c"]


def test_answers_of_signs_are_wrong_ones_and_the_answer_is_no_further_one() -> None:
    assert question("q", "d", "forget", "Which language?", "C++", wrong=["C#", "C", "Java"])["wrong"] == ["C#", "C", "Java"]
    assert question("q", "d", "forget", "What is 2 - 7?", "-5", wrong=["5", "-5."])["wrong"] == ["5"], "one that is right is left out"
    assert question("q", "d", "forget", "Where?", "Paris", answers=["It is Paris", "paris."])["answers"] == ["It is Paris"]
    assert question("q", "d", "forget", "Where?", "Paris", paraphrases=["where", "At what place?"])["paraphrases"] == ["At what place?"]


def test_wrong_answers_of_tofu_stay_as_given(tmp_path: Path) -> None:
    shutil.copytree(STANDINS / "tofu", tmp_path / "tofu")
    for name in ("forget10_perturbed", "world_facts_perturbed"):
        file = tmp_path / "tofu" / f"{name}.json"
        first, *rest = file.read_text().splitlines()
        file.write_text("\n".join([json.dumps(json.loads(first) | {"perturbed_answer": ["No", "no!", "Never", "No", "C#"]}), *rest]))
    memories = {m.id: m for m in load_memories(f"tofu:{tmp_path / 'tofu'}")}
    assert memories["tofu-forget10_perturbed-0000"].wrong == ("No", "no!", "Never", "No", "C#")
    facts = {m.id: m for m in load_aside(f"tofu:{tmp_path / 'tofu'}")}
    assert facts["tofu-world_facts-0000"].wrong == ("No", "no!", "Never", "No", "C#")


# ---- which questions are one


def given(prompt: str, role: str = "forget") -> dict[str, Any]:
    return question(prompt, "d", role, prompt, "8")


def test_a_set_keeps_questions_that_differ_in_a_sign_and_not_those_that_differ_in_a_point() -> None:
    found = whole([given("What is 5 + 3?"), given("What is 5 - 3?"), given("what is 5 + 3"), given("What is 5 - 3 ?", "keep"), given(" ")])
    assert [g["prompt"] for g in found] == ["What is 5 + 3?", "What is 5 - 3?"]


def test_passages_of_the_same_words_are_one() -> None:
    one = {"id": "a", "domain": "d", "role": "keep", "text": "It rains, they say.", "opening_end": 3}
    assert list(whole([one, one | {"id": "b", "text": "It rains they say"}, one | {"id": "c", "text": "It snows"}])) == [
        one, one | {"id": "c", "text": "It snows"}
    ]  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_questions_of_a_file_are_the_same_under_every_template_or_are_not(template: str) -> None:
    ask = template.format
    assert groups(ask("What is 5 + 3?"), ask("What is 5 - 3?")) == []
    assert groups(ask("What is 5! + 3?"), ask("What is 5 + 3?")) == []
    assert groups(ask("Is x. < 5?"), ask("Is x < 5?"), ask("Is x > 5?")) == []
    assert groups(ask("Where is it?"), ask("Who is it?"), ask("where  is it"), ask("Where is it?!")) == [[0, 2, 3]]


def test_questions_of_a_chat_are_compared_as_a_model_without_a_template_meets_them() -> None:
    chats = [
        rendered(asked(p, "x", chat=True), SimpleNamespace(chat_template=None)) for p in ("Where is it?", "Where is it", "Where is C#?")
    ]
    encoded: list[EncodedMemory] = [EncodedMemory(m, "forget", False, (1, 2), 1, m.text) for m in chats]
    assert asked_twice(encoded) == [[0, 1]]


# ---- what is right and wrong


def test_a_wrong_answer_that_differs_in_a_sign_is_none_of_the_accepted() -> None:
    require_whole(asked("What is 2 - 7?", " -5", wrong=(" 5",)), "a.jsonl:1")
    require_whole(asked("Which language?", " C++", answers=(" C plus plus",), wrong=(" C#", " C")), "a.jsonl:1")
    require_whole(asked("Which sign?", " +", wrong=(" -", " ?")), "a.jsonl:1")


@pytest.mark.parametrize("wrong", [" -5", "-5.", " Minus  FIVE!"])
def test_a_wrong_answer_that_is_accepted_is_refused(wrong: str) -> None:
    with pytest.raises(UserError, match=r"a.jsonl:1: '.*' is among the wrong answers and is accepted"):
        require_whole(asked("What is 2 - 7?", " -5", answers=(" minus five",), wrong=(" 5", wrong)), "a.jsonl:1")


@pytest.mark.parametrize(
    ("text", "found"), [("3.5kg", ["3.5", "kg"]), ("It weighs 12.25g.", ["it", "weighs", "12.25", "g"]), ("5kg", ["5kg"])]
)
def test_a_number_with_a_decimal_point_ends_before_its_unit(text: str, found: list[str]) -> None:
    assert terms(text) == found
