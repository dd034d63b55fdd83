"""Tampering is cross-fitted and composed with the prompting attacks; searching yields answers and findings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest

from palimpsest.attacks.prefix import Prefix
from palimpsest.benchmark.attack import Answer, Changed, Finding, Searching, Subject, Tampering, Tools, Workshop
from palimpsest.benchmark.battery import Armed, Probes, arm
from palimpsest.benchmark.errors import UserError
from palimpsest.benchmark.expensive import Task, attack_once
from palimpsest.benchmark.plugins import Plugin
from palimpsest.benchmark.types import EncodedMemory, Row
from tests.conftest import Memorised


@dataclass(frozen=True)
class Crosswise(Tampering):
    """Hands the model back unchanged and remembers what it was given."""

    given: list[list[str]] = field(default_factory=list)

    learns = True

    def tamper(self, subject: Subject, relearned: Sequence[Row], tools: Workshop) -> Iterable[Changed | Finding]:
        self.given.append([r.name for r in relearned])
        yield Changed(subject, "step 1", glance=True)
        yield Changed(subject, "whole")
        yield Finding("", "strength", 2.0)


@dataclass(frozen=True)
class Remembering(Searching):
    """Claims to have found half of everything."""

    def search(self, subject: Subject, memories: Sequence[EncodedMemory], tools: Workshop) -> Iterable[Answer | Finding]:
        for m in memories:
            yield Answer(m.id, "half", 32, 64, "prompt", m.opening)
            yield Finding(m.id, "tries", 3.0)


@dataclass(frozen=True)
class Telling(Searching):
    """Gives the target away in its prompt: of the first memory the whole, of the others half of what it says it found."""

    def search(self, subject: Subject, memories: Sequence[EncodedMemory], tools: Workshop) -> Iterable[Answer | Finding]:
        for i, m in enumerate(memories):
            yield Answer(m.id, "told", 20, 64, tools.decode(m.target[: 10 if i else 20]), m.opening)


def run(attack: Tampering | Searching, memorised: Memorised, few: int | None = None) -> Task:
    everyone = [*memorised.memories, *memorised.unseen]
    tools = Tools(memorised.base)
    armed = Armed(Plugin("attack", "mine", type(attack), "source"), attack, {})
    scored = [m for m in everyone if m.role != "keep"][:few]
    task = Task(armed, scored, everyone, Workshop(memorised.base, precision="fp32"), Probes(tools), arm({"prefix": {}, "paraphrase": {}}))
    attack_once(task, memorised.subject)
    return task


def test_each_half_of_the_forget_memories_is_learnt_once_and_only_the_other_half_is_scored(memorised: Memorised) -> None:
    attack = Crosswise()
    task = run(attack, memorised)
    first, second = (set(names) for names in attack.given)
    assert first.isdisjoint(second)
    assert first | second == {m.id for m in memorised.memories if m.role == "forget"}
    for answer in task.answers:
        assert answer["memory"] not in (first, second)[answer["fold"]]
    assert {a["memory"] for a in task.answers} == {m.id for m in [*memorised.memories, *memorised.unseen] if m.role != "keep"}


def test_a_changed_model_is_asked_again_with_every_prompting_attack(memorised: Memorised) -> None:
    task = run(Crosswise(), memorised)
    assert {(a["attack"], a["access"], a["tier"]) for a in task.answers} == {("mine", "weights", 2)}
    assert {a["variant"] for a in task.answers} == {"whole/prefix", "whole/paraphrase"}
    best = {a["memory"]: a["matched"] for a in task.answers if a["variant"] == "whole/prefix"}
    assert all(best[m.id] > 32 for m in memorised.memories if m.role == "forget")
    assert all(best[m.id] < 32 for m in memorised.unseen)


def test_a_glance_asks_only_the_exact_opening_and_becomes_a_finding(memorised: Memorised) -> None:
    task = run(Crosswise(), memorised)
    glances = {f.memory: f.value for f in task.findings if f.quantity == "matched@step 1"}
    assert set(glances) == {a["memory"] for a in task.answers}
    assert all(glances[m.id] == 64 for m in memorised.memories if m.role == "forget")
    assert [(f.memory, f.value, f.fold) for f in task.findings if f.quantity == "strength"] == [("", 2.0, 0), ("", 2.0, 1)]


def test_a_search_gives_answers_and_findings_of_every_memory(memorised: Memorised) -> None:
    task = run(Remembering(), memorised)
    assert {(a["attack"], a["matched"], a["tier"], a["access"]) for a in task.answers} == {("mine", 32, 2, "black-box")}
    assert {f.memory for f in task.findings} == {a["memory"] for a in task.answers}


def test_what_a_search_found_in_its_own_prompt_is_copying(memorised: Memorised) -> None:
    assert [a["matched"] for a in run(Telling(), memorised, 3).answers] == [0, 20, 20]


def test_where_nobody_is_to_be_scored_nothing_is_trained(memorised: Memorised) -> None:
    attack = Crosswise()
    task = run(attack, memorised, 0)
    assert attack.given == task.answers == task.findings == []


def test_an_attack_of_another_kind_is_refused(memorised: Memorised) -> None:
    with pytest.raises(UserError, match="should derive from Searching or Tampering"):
        run(Prefix(), memorised)  # type: ignore[arg-type]
