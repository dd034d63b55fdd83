"""A model with a table of positions says what it has positions for: nothing that asks for more ends a run after everything was made."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import GPT2Config

from palimpsest.attacks.answers import Answers
from palimpsest.benchmark.battery.checks import facts_for_flags
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import EncodedMemory, Memory
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.published import read_off
from tests.benchmark.model_folders import made

POSITIONS = 128


@pytest.fixture(scope="module")
def learned(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    shape = GPT2Config(vocab_size=4096, n_embd=32, n_layer=2, n_head=4, n_positions=POSITIONS, bos_token_id=0, eos_token_id=0)
    return Subject(made(tmp_path_factory.mktemp("learned") / "gpt2", shape, tokenizer))


def question(prompt: int, answer: int, name: str = "m") -> EncodedMemory:
    """One of so many tokens."""
    ids = tuple(range(200, 200 + prompt + answer))
    return EncodedMemory(Memory(name, "domain", "asked? said", 6, kind="qa"), "forget", False, ids, prompt)


@pytest.mark.parametrize(("given", "said"), [(10, 48), (80, 48), (81, 48), (82, 47), (100, 29), (127, 2), (128, 1)])
def test_what_is_generated_ends_with_the_last_position(learned: Subject, given: int, said: int) -> None:
    """The last token needs none, since nothing is said behind it."""
    prompt = tuple(range(300, 300 + given))
    ((*ids,),) = learned.generate([prompt], 48)
    assert len(ids) == said
    assert learned.generate([prompt], min(said, 5)) == [tuple(ids[:5])]


def test_every_prompt_has_its_own_end(learned: Subject) -> None:
    prompts = [tuple(range(300, 300 + n)) for n in (120, 10, 120, 64)]
    assert list(map(len, learned.generate(prompts, 64))) == [9, 64, 9, 64]


def test_a_prompt_beyond_the_positions_is_refused_by_name(learned: Subject) -> None:
    with pytest.raises(
        UserError, match=r"A prompt of 129 tokens is to be continued, and GPT2LMHeadModel in .* reads at most 128\. Give it"
    ):
        learned.generate([tuple(range(129))], 4)


@pytest.mark.parametrize("asked", [[question(44, 48)], [question(79, 48), question(3, 2, "short")]])
def test_measures_of_other_papers_are_read_off_long_questions(learned: Subject, asked: Sequence[EncodedMemory]) -> None:
    """Twice as many tokens as the answer has are asked for; at least as many as it has fit where the row does."""
    rows = read_off(learned, [(m, "") for m in asked], 127, "fp32")
    assert [len(row["likeliest"]) for row in rows] == [len(m.row) - m.opening for m in asked]
    assert all(isinstance(row["said"], str) for row in rows)
    for m in asked:
        assert len(learned.generate([m.row[: m.opening]], 96)[0]) >= len(m.row) - m.opening


def test_an_attack_that_generates_a_fixed_number_is_answered(learned: Subject) -> None:
    tools: Any = SimpleNamespace(tokenizer=learned.tokenizer)
    found = list(Answers().search(learned, [question(110, 8)], tools))
    assert sum(f.value for f in found) == 1


def test_flags_are_found_of_a_long_question_beside_a_long_answer(learned: Subject) -> None:
    """As many tokens are generated of all as the longest target has."""
    found = facts_for_flags(learned, learned, [question(120, 4), question(20, 64, "other")], "fp32")
    assert {f.quantity for f in found} >= {"generated", "stochastic", "generated_differs"}
    assert not any(f.value for f in found if f.quantity == "stochastic")
