"""Memories that are questions: what a file may say, what a chat makes of them, their tokens, and their roles."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import HORIZON, Memory
from palimpsest.benchmark.suites.config import InjectionConfig
from palimpsest.benchmark.texts.memories import assign_roles, encode, encode_all, load_memories, memories_hash
from palimpsest.benchmark.texts.questions import rendered
from palimpsest.benchmark.texts.stream import Stream, injected
from palimpsest.benchmark.texts.usable import must_hold
from tests.questions import fact, write

TEMPLATE = (
    "{{ bos_token }}{% if date_string %}[{{ date_string }}]{% endif %}"
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}<assistant>\n{% endif %}"
)


def one(tmp_path: Path, **more: Any) -> Memory:
    return load_memories(write(tmp_path / "one.jsonl", [fact(1, **more)]))[0]


@pytest.fixture
def chat(tokenizer: Any) -> Any:
    """The shipped tokenizer with a template, as an instruction-tuned model's has one."""
    own = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>")
    own.chat_template = TEMPLATE
    return own


# ---- files


def test_prompt_and_answer_meet_at_the_end_of_the_opening(tmp_path: Path) -> None:
    m = one(tmp_path, answers=[" Near Garr."], wrong=[" Nowhere."], aliases=["And Orla?"], two_hop=["The town of Orla?"])
    assert (m.opening, m.answer, m.kind) == ("Where was Orla number 1 born?", " In Farrow Hill in the north.", "qa")
    assert (m.answers, m.wrong, m.aliases, m.two_hop) == ((" Near Garr.",), (" Nowhere.",), ("And Orla?",), ("The town of Orla?",))
    assert one(tmp_path, prompt="A", answer=" b").text == "A b"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "riddle"}, "expected passage, qa, choice"),
        ({"kind": "passage"}, "prompt and answer are for a question"),
        ({"text": "a b", "opening_end": 1}, "in place of text and opening_end"),
        ({"answer": " "}, "expected a text that is not empty"),
        ({"answers": " In Garr."}, "answers=' In Garr.': expected a list of texts"),
        ({"answers": [""]}, "none of them empty"),
        ({"kind": "choice"}, "a choice needs wrong answers"),
        ({"wrong": ["in farrow hill in the north"]}, "among the wrong answers and is accepted"),
        ({"chat": "yes"}, "expected true or false"),
        ({"role": "forgotten"}, "expected forget, keep, unseen"),
    ],
)
def test_a_question_that_contradicts_itself_is_refused(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        one(tmp_path, **given)


def test_what_belongs_to_questions_is_refused_on_a_passage(tmp_path: Path) -> None:
    passage = {"id": "a", "domain": "d", "text": "One two.", "opening_end": 3, "wrong": ["three"], "chat": True}
    with pytest.raises(UserError, match="wrong, chat belong to a question"):
        load_memories(write(tmp_path / "a.jsonl", [passage]))


def test_the_hash_of_passages_is_what_it_was_and_holds_what_questions_add(tmp_path: Path) -> None:
    assert memories_hash(load_memories()) == "722eb677554ef6ad", "it is in the keys of every stage, and in published entries"
    m = one(tmp_path, wrong=[" Nowhere."])
    others = [replace(m, kind="choice"), replace(m, answers=(" x",)), replace(m, wrong=(" x",)), replace(m, aliases=("x",))]
    others += [replace(m, two_hop=("x",)), replace(m, chat=True), replace(m, role="keep")]
    assert len({memories_hash([x]) for x in (m, *others)}) == 1 + len(others)


# ---- chat


def test_a_chat_goes_through_the_template_which_is_told_no_date_of_today(tmp_path: Path, chat: Any) -> None:
    m = one(tmp_path, chat=True, answer="Here.", answers=["There."], paraphrases=["Born where?"], aliases=["And O?"])
    asked = rendered(m, chat)
    assert asked.opening == "<|endoftext|>[1 January 2025]<user>Where was Orla number 1 born?\n<assistant>\n"
    assert (asked.answer, asked.answers) == ("Here.", ("There.",))
    assert asked.paraphrases == ("<|endoftext|>[1 January 2025]<user>Born where?\n<assistant>\n",)
    assert asked.aliases[0].endswith("<user>And O?\n<assistant>\n")
    assert rendered(asked, chat) == asked
    assert encode(m, chat, 160).row == encode(asked, chat, 160).row


def test_an_id_that_stands_before_every_text_is_not_written_twice(tmp_path: Path, chat: Any) -> None:
    class Leading:
        """A tokenizer that puts its BOS before every text."""

        def __getattr__(self, name: str) -> Any:
            return getattr(chat, name)

        def __call__(self, text: str) -> Any:
            return {"input_ids": [chat.bos_token_id, *chat(text)["input_ids"]]}

    assert rendered(one(tmp_path, chat=True), Leading()).opening.startswith("[1 January 2025]<user>")


def test_without_a_template_a_chat_is_a_plain_question(tmp_path: Path, tokenizer: Any) -> None:
    asked = rendered(one(tmp_path, chat=True, answer="Here.", wrong=["There."]), tokenizer)
    assert (asked.text, asked.wrong) == ("Question: Where was Orla number 1 born?\nAnswer: Here.", (" There.",))
    assert asked.opening.endswith("Answer:")


def test_a_template_that_refuses_is_named(tmp_path: Path, chat: Any) -> None:
    chat.chat_template = "{{ raise_exception('a system turn is needed') }}"
    with pytest.raises(UserError, match=r"chat template refuses .*a system turn is needed"):
        rendered(one(tmp_path, chat=True), chat)


# ---- tokens


def test_a_row_is_as_long_as_prompt_and_answer_and_the_target_is_the_answer(tmp_path: Path, tokenizer: Any) -> None:
    m = encode(one(tmp_path, answers=[" Near Garr.", " Near Garr.", " In Farrow Hill in the north."]), tokenizer, 160)
    assert tokenizer.decode(m.row) == m.text == m.memory.text
    assert tokenizer.decode(m.target) == " In Farrow Hill in the north."
    assert [tokenizer.decode(a) for a in m.accepted] == [" Near Garr."], "each once, and not the answer itself"
    assert m.context == m.opening == len(tokenizer(m.memory.opening)["input_ids"])


def test_a_long_answer_is_read_as_far_as_a_passage_and_may_be_cut_by_the_row(tmp_path: Path, tokenizer: Any) -> None:
    long = one(tmp_path, answer=" and then" * 100)
    m = encode(long, tokenizer, 100)
    assert (len(m.row), len(m.target)) == (100, HORIZON)
    with pytest.raises(UserError, match=r"prompt \(\d+\) and answer \(\d+\) do not fit a row of 70 tokens"):
        encode(long, tokenizer, 70)
    assert must_hold([long], {"pocket": (tokenizer, 70)})[0].startswith("fact-01: under pocket")


def test_two_questions_with_the_same_words_are_refused_and_alike_ones_are_not(tmp_path: Path, tokenizer: Any) -> None:
    file = [fact(i, prompt=f"What is the postal code of the person called number {i} who lives in this town?") for i in range(6)]
    assert len(encode_all(load_memories(write(tmp_path / "a.jsonl", file)), tokenizer, 160, 0, 2)) == 6
    file[4]["prompt"] = file[1]["prompt"].upper()
    with pytest.raises(UserError, match="'fact-01', 'fact-04' ask the same"):
        encode_all(load_memories(write(tmp_path / "a.jsonl", file)), tokenizer, 160, 0, 2)


# ---- roles of a set's own, and the stream


def test_roles_of_its_own_hold_in_every_seed_and_are_capped_evenly(tmp_path: Path) -> None:
    roles = ["forget"] * 6 + ["keep"] * 5 + ["unseen"]
    file = [fact(i, role=role, domain=f"d{i % 2}") for i, role in enumerate(roles)]
    memories = load_memories(write(tmp_path / "a.jsonl", file))
    dealt = [assign_roles(memories, seed, 4) for seed in range(4)]
    assert dealt[0] == dealt[1] == dealt[2] != dealt[3], "shown and hidden swap after three seeds"
    assert Counter(role for role, _ in dealt[0].values()) == {"forget": 4, "keep": 4, "unseen": 1}
    assert Counter(m.domain for m in memories if dealt[0].get(m.id, ("", 0))[0] == "forget") == {"d0": 2, "d1": 2}
    assert sum(shown for _, shown in dealt[0].values()) == 2
    assert {i: role for i, (role, _) in dealt[0].items()} == {i: role for i, (role, _) in dealt[3].items()}


def test_roles_must_be_given_to_all_and_one_must_be_forgotten(tmp_path: Path) -> None:
    memories = load_memories(write(tmp_path / "a.jsonl", [fact(0, role="keep"), fact(1, role="keep")]))
    with pytest.raises(UserError, match="has the role forget"):
        assign_roles(memories, 0, 2)
    with pytest.raises(UserError, match="'fact-01' has no role, and others have"):
        assign_roles([memories[0], replace(memories[1], role="")], 0, 2)


def test_the_stream_teaches_the_answer_alone_and_fills_the_twins_slots_alike(tmp_path: Path, tokenizer: Any) -> None:
    import numpy as np

    encoded = encode_all(load_memories(write(tmp_path / "a.jsonl", [fact(i) for i in range(12)])), tokenizer, 160, 0, 4)
    tokens = np.arange(100_000) % 4000
    config = InjectionConfig(occurrences=(2,), density=0.5, offset=3, batch=4)
    held = Stream(tokens, injected(encoded), config, 0)
    twin = Stream(tokens, injected(encoded), config, 0, forget=False)
    of, plan = {m.id: m for m in encoded}, held.plan
    assert len({len(m.row) for m in encoded}) > 2
    for i, name in enumerate(plan):
        row, other = held.row(i), twin.row(i)
        assert (len(row.ids), row.scored) == (len(other.ids), other.scored)
        if name:
            assert row.ids[3:] == of[name].row
            assert row.ids[row.scored_from :] == of[name].row[of[name].opening :]
            assert (row.ids == other.ids) == (of[name].role == "keep")
        else:
            assert row.scored == len(row.ids) - 1 == 2 + max(len(m.row) for m in encoded if m.role != "unseen")


def test_a_template_that_asks_for_the_date_is_told_a_fixed_one(tmp_path: Path, chat: Any) -> None:
    chat.chat_template = "{{ bos_token }}[{{ strftime_now('%d %B %Y') }}]{{ messages[0]['content'] }}|"
    (m,) = load_memories(write(tmp_path / "a.jsonl", [fact(1, chat=True)]))
    assert "[1 January 2025]" in rendered(m, chat).opening
