"""Questions of unequal length are read and taught as they are, one by one or together; what counts as an answer, and what as copying."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from palimpsest.attacks.beam_search import BeamSearch
from palimpsest.attacks.leak_at_k import LeakAtK
from palimpsest.attacks.longer_prefix import LongerPrefix
from palimpsest.attacks.prefix import Prefix
from palimpsest.attacks.shifted_window import ShiftedWindow
from palimpsest.benchmark.attack import Changed, Tampering, Tools, Workshop
from palimpsest.benchmark.battery.accepted import stand_ins, with_whole_answers
from palimpsest.benchmark.battery.answers import BestAnswer
from palimpsest.benchmark.battery.one_attack import Task, attack_once
from palimpsest.benchmark.battery.shared_pass import Armed, Probes, arm, ask_all
from palimpsest.benchmark.common.memory import memory_from
from palimpsest.benchmark.common.types import EncodedMemory, Row, opening_probe
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.early_stopping import Monitor
from palimpsest.benchmark.reading.oracle import matched_lengths
from palimpsest.benchmark.reading.reader import Reader, without_copying
from palimpsest.benchmark.texts.memories import encode, load_memories
from palimpsest.benchmark.texts.questions import joined
from palimpsest.benchmark.training.loop import train
from palimpsest.benchmark.training.losses import language_model_loss, nll_of_rows
from palimpsest.benchmark.training.recipe import Recipe
from tests.questions import fact

TAUGHT = 8


def question(tokenizer: Any, i: int, **more: Any) -> EncodedMemory:
    return encode(memory_from(joined(fact(i, **more), "test")), tokenizer, 160, "forget" if i < TAUGHT else "unseen")


def row(m: EncodedMemory) -> Row:
    return Row(m.row, name=m.id).after(m.context, len(m.row))


@pytest.fixture(scope="module")
def asked(tokenizer: Any) -> list[EncodedMemory]:
    return [question(tokenizer, i) for i in range(12)]


@pytest.fixture(scope="module")
def knows(tiny: Subject, asked: list[EncodedMemory], tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """The tiny model after our own loop taught it the first eight answers."""
    batch = {"text": [row(m) for m in asked[:TAUGHT]]}
    done = train(tiny.fresh(), lambda step: batch, language_model_loss, Recipe(lr=1e-2, steps=60, schedule="linear", precision="fp32"))
    folder = tmp_path_factory.mktemp("knows")
    tiny.with_state(done.state).save(folder)
    return Subject(folder)


def answers(
    subject: Subject, base: Subject, attack: str, *memories: EncodedMemory, **fields: Any
) -> dict[tuple[str, str], tuple[int, int]]:
    """(memory, variant) -> matched, horizon."""
    out = ask_all(subject, Probes(Tools(base)), [(a, memories) for a in arm({attack: fields})], "fp32")
    return {(a.memory, a.variant): (a.matched, a.horizon) for a in out.answers}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_questions_of_unequal_length_are_read_together_as_each_alone(precision: str, knows: Subject, asked: list[EncodedMemory]) -> None:
    assert len({len(m.row) for m in asked}) > 3
    probes = [opening_probe(m) for m in asked]
    together = Reader(knows, precision)
    assert together.read(probes, asked) == [matched_lengths(knows, p) for p in probes]
    assert [n == len(m.target) for m, (n,) in zip(asked, together.read(probes), strict=True)] == [True] * TAUGHT + [False] * 4
    for m in asked[::5]:
        alone = Reader(knows, precision)
        alone.read([], [m])
        mine, theirs = alone.readings[m.id].log_probability, together.readings[m.id].log_probability
        assert len(mine) == len(theirs) == len(m.row)
        assert torch.allclose(torch.tensor(mine[1:]), torch.tensor(theirs[1:]), atol=1e-4)


def test_padding_never_counts_in_a_loss_and_prompts_do_not(tiny: Subject, asked: list[EncodedMemory]) -> None:
    together = nll_of_rows(tiny.model, [row(m) for m in asked])
    alone = [nll_of_rows(tiny.model, [row(m)])[0] for m in asked]
    assert together == pytest.approx(alone, rel=1e-5)
    m = asked[0]
    whole, prompt = nll_of_rows(tiny.model, [Row(m.row), Row(m.row[: m.opening])])
    assert alone[0] == pytest.approx(whole - prompt, rel=1e-5)


def test_only_what_is_read_from_the_answer_on_is_asked(knows: Subject, tiny: Subject, asked: list[EncodedMemory]) -> None:
    m = asked[1]
    size = len(m.target)
    assert answers(knows, tiny, "prefix", m, lengths=[4, m.opening + 2]) == {
        (m.id, "opening"): (size, size), (m.id, f"k{m.opening + 2}"): (size - 2, size - 2),
    }  # fmt: skip
    windows = [p for p in Probes(Tools(tiny)).of(arm({"shifted_window": {}})[0], [m]) for _ in p.cuts]
    assert windows
    assert all(p.offset + c >= m.opening for p in windows for c in p.cuts)
    longer = answers(knows, tiny, "longer_prefix", m, extra=[2, 40])
    assert longer == {(m.id, "+2"): (size - 2, size - 2)}
    for attack in (Prefix(), LongerPrefix(), ShiftedWindow()):
        assert all(not p.lists for p in attack.probes(m, Tools(tiny)))


def test_an_accepted_answer_that_comes_back_whole_is_the_whole_answer(knows: Subject, tiny: Subject, tokenizer: Any) -> None:
    true = fact(1)["answer"]
    other = question(tokenizer, 1, answer=" Not telling.", answers=[" I forgot.", true])
    size = len(other.target)
    assert answers(knows, tiny, "prefix", other, lengths=[4]) == {(other.id, "opening"): (size, size)}
    part = question(tokenizer, 1, answer=" Not telling.", answers=[true + " Or so."])
    assert answers(knows, tiny, "prefix", part, lengths=[4]) == {(part.id, "opening"): (0, size)}, "a part of another answer is nothing"


@dataclass(frozen=True)
class Unchanged(Tampering):
    """A point of a trajectory, and the same model to be asked again."""

    def tamper(self, subject: Subject, relearned: Sequence[Row], tools: Workshop) -> Iterable[Changed]:
        yield Changed(subject, "half", 1, only_opening=True)
        yield Changed(subject, "whole")


def test_a_changed_model_that_gives_an_accepted_answer_has_the_whole_answer(knows: Subject, tiny: Subject, tokenizer: Any) -> None:
    other = question(tokenizer, 1, answer=" Not telling.", answers=[fact(1)["answer"]])
    unknown = question(tokenizer, 1, answer=" Not telling.")
    found = []
    for m in (other, unknown):
        armed = Armed(arm({"prefix": {}})[0].plugin, Unchanged(), {})
        task = Task(armed, [m], [m], Workshop(tiny, precision="fp32"), Probes(Tools(tiny)), arm({"prefix": {"lengths": [4]}}))
        attack_once(task, knows)
        found.append(([f.value for f in task.findings], [a.matched == a.horizon for a in task.answers]))
    assert found == [([64.0], [True]), ([0.0], [False])], "the answer itself is said by neither"


@pytest.mark.parametrize("widths", [[1], [2, 4]])
def test_a_search_looks_for_every_accepted_answer(widths: list[int], knows: Subject, tiny: Subject, tokenizer: Any) -> None:
    true = fact(1)["answer"]
    other = question(tokenizer, 1, answer=" Not telling.", answers=[" I forgot.", true])
    part = question(tokenizer, 1, answer=" Not telling.", answers=[true + " Or so."])
    passage = encode(load_memories()[0], tokenizer, 160)
    found = {}
    for m in (other, part, passage):
        (beam,) = arm({"beam_search": {"widths": widths}})
        task = Task(beam, [m], [m], Workshop(tiny, precision="fp32"), Probes(Tools(tiny)))
        attack_once(task, knows)
        assert {a.memory for a in task.answers} == {f.memory for f in task.findings} == {m.id}, (
            "what is not the answer itself has no record"
        )
        found[m] = {a.variant: (a.matched, a.horizon) for a in task.answers}
    assert found[other] == {f"beam{w}": (len(other.target),) * 2 for w in widths}
    assert found[part]["beam1" if 1 in widths else "beam2"] == (0, len(part.target)), "a part of another answer is nothing"
    assert all(matched < 8 for matched, _ in found[passage].values())


def test_an_answer_that_stands_in_its_question_is_a_copy_unless_the_prompt_lists_what_can_be_chosen(asked: list[EncodedMemory]) -> None:
    m = asked[2]
    size, prompt = len(m.target), m.target + m.row[: m.opening]
    given = replace(opening_probe(m), prompt=prompt, target=m.target, offset=m.opening, cuts=(0,))
    span = (len(prompt), len(prompt) + size)
    assert [without_copying(p, span, size) for p in (given, replace(given, lists=True))] == [0, size]
    choice = replace(m, memory=replace(m.memory, kind="choice", wrong=(" Elsewhere.",)))
    assert [opening_probe(x).lists for x in (m, choice)] == [False, True]


def test_monitoring_counts_whole_answers(knows: Subject, tiny: Subject, asked: list[EncodedMemory]) -> None:
    text = [Row(asked[0].row)]
    assert Monitor(asked[:TAUGHT], text).evaluate(knows, "fp32")["exact"] == 1
    assert Monitor(asked[:TAUGHT], text).evaluate(tiny, "fp32")["exact"] == 0


def test_what_a_search_found_for_another_answer_is_kept_as_it_was_found(tokenizer: Any) -> None:
    """Under its own variant and prompt, also where nothing was told of the answer itself; nothing else of a stand-in is kept."""
    m = question(tokenizer, 1, answers=[" Somewhere else."])
    others = stand_ins(BeamSearch(), [m])
    ((name, (other, _)),) = others.items()
    size, own = len(other.target), len(m.target)

    def answer(memory: str, variant: str, matched: int, horizon: int) -> BestAnswer:
        return BestAnswer(memory, "x", variant, "grey-box", 2, 0, m.opening, f"prompt of {variant}", matched, horizon, -1)

    mine = answer(m.id, "8 free", 0, own)
    told = with_whole_answers([mine, answer(name, "5 free", size, size), answer(name, "6 free", size - 1, size)], others)
    assert [(a.memory, a.variant, a.matched, a.horizon, a.prompt) for a in told] == [
        (m.id, "8 free", 0, own, "prompt of 8 free"),
        (m.id, "5 free", own, own, "prompt of 5 free"),
    ]
    better = with_whole_answers([mine, answer(name, "8 free", size, size)], others)
    assert [(a.variant, a.matched) for a in better] == [("8 free", own)]
    assert stand_ins(Prefix(), [m]) == stand_ins(LeakAtK(), [m]) == {}, "no search; a search whose lengths do not count"
