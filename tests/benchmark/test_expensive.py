"""Tampering is cross-fitted and composed with the prompting attacks; searching yields answers and findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from palimpsest.attacks.beam_search import BeamSearch
from palimpsest.attacks.gcg import GCG
from palimpsest.attacks.prefix import Prefix
from palimpsest.attacks.unchanged import Unchanged
from palimpsest.benchmark.attack import Answer, Changed, Finding, Searching, Subject, Tampering, Tools, Workshop
from palimpsest.benchmark.battery.answers import ANSWER
from palimpsest.benchmark.battery.claims import LONGEST, OTHERS, reread_claims, sample
from palimpsest.benchmark.battery.one_attack import Task, attack_once
from palimpsest.benchmark.battery.shared_pass import Armed, Probes, arm, ask_all
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.plugins import Plugin
from palimpsest.benchmark.common.types import EncodedMemory, Probe, Row
from palimpsest.benchmark.models.weights import replaced
from palimpsest.benchmark.reading.cache import Cache
from palimpsest.benchmark.reading.reader import Reader
from tests.conftest import Memorised


@dataclass(frozen=True)
class Crosswise(Tampering):
    """Hands the model back unchanged and remembers what it was given."""

    given: list[list[str]] = field(default_factory=list)

    learns = True

    def tamper(self, subject: Subject, relearned: Sequence[Row], tools: Workshop) -> Iterable[Changed | Finding]:
        self.given.append([r.name for r in relearned])
        yield Changed(subject, "half", 1, only_opening=True)
        yield Changed(subject, "whole")
        yield Finding("", "strength", 2.0)


@dataclass(frozen=True)
class Remembering(Searching):
    """Reads the first half of every target after the exact opening."""

    def search(self, subject: Subject, memories: Sequence[EncodedMemory], tools: Workshop) -> Iterable[Answer | Finding]:
        for m, matched in zip(memories, read(subject, memories, 32), strict=True):
            yield Answer(m.id, "half", matched, 32, m.memory.opening, m.opening, start=0)
            yield Finding(m.id, "tries", 3.0)


@dataclass(frozen=True)
class Telling(Searching):
    """Gives the target away in its prompt: of the first memory the whole, of the others half of what it says it drew."""

    claims = "sample"

    def search(self, subject: Subject, memories: Sequence[EncodedMemory], tools: Workshop) -> Iterable[Answer | Finding]:
        for i, m in enumerate(memories):
            yield Answer(m.id, "told", 20, 64, tools.decode(m.target[: 10 if i else 20]), m.opening, width=5000)


@dataclass(frozen=True)
class Claiming(Searching):
    """Says of every memory what it is told to say."""

    matched: int = 0
    horizon: int = 32
    width: int = 1
    about: str = ""  # a memory that it was not given
    finds: bool = False
    prompt: str = "A prompt that brings nothing back."

    def search(self, subject: Subject, memories: Sequence[EncodedMemory], tools: Workshop) -> Iterable[Answer | Finding]:
        for m in memories:
            yield Answer(m.id, "free", self.matched, self.horizon, self.prompt, m.opening, width=self.width)
        if self.about:
            yield Finding(self.about, "tries", 1.0) if self.finds else Answer(self.about, "free", 0, 32, self.prompt, 16)


class Beams(Claiming):
    claims = "beam"


class Samples(Claiming):
    claims = "sample"


class Unread(Claiming):
    claims = "none"


class Soft(Claiming):
    claims = "none"
    diagnostic = True


def read(subject: Subject, memories: Sequence[EncodedMemory], tokens: int) -> list[int]:
    """Tokens matched after the exact opening, of so many."""
    probes = [Probe(m.id, (), m.row, 0, (m.opening,), start=0, horizon=tokens) for m in memories]
    return [n for (n,) in Reader(subject, "fp32").read(probes)]


REASKED = arm({"prefix": {}, "paraphrase": {}})


def run(attack: Tampering | Searching, memorised: Memorised, few: int | None = None, known: Cache | None = None) -> Task:
    everyone = [*memorised.memories, *memorised.unseen]
    tools = Tools(memorised.base)
    armed = Armed(Plugin("attack", "mine", type(attack), "source"), attack, {})
    scored = [m for m in everyone if m.role != "keep"][:few]
    task = Task(armed, scored, everyone, Workshop(memorised.base, precision="fp32"), Probes(tools), REASKED, known or {})
    attack_once(task, memorised.subject)
    return task


def test_each_half_of_the_forget_memories_is_learnt_once_and_only_the_other_half_is_scored(memorised: Memorised) -> None:
    attack = Crosswise()
    task = run(attack, memorised)
    first, second = (set(names) for names in attack.given)
    assert first.isdisjoint(second)
    assert first | second == {m.id for m in memorised.memories if m.role == "forget"}
    for answer in task.answers:
        assert answer.memory not in (first, second)[answer.fold]
    assert {a.memory for a in task.answers} == {m.id for m in [*memorised.memories, *memorised.unseen] if m.role != "keep"}


@dataclass(frozen=True)
class Nudged(Tampering):
    """One weight matrix to 0."""

    def tamper(self, subject: Subject, relearned: Sequence[Row], tools: Workshop) -> Iterable[Changed | Finding]:
        name, weight = next((n, p) for n, p in subject.model.named_parameters() if p.ndim == 2)
        yield Changed(replaced(subject, {name: torch.zeros_like(weight)}), "nudged")


def test_a_model_as_it_is_answers_from_what_it_was_asked_and_a_changed_one_does_not(
    memorised: Memorised, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(Reader, "_ask", recording(Reader._ask, asked))
    anew = run(Unchanged(), memorised, 6)
    everyone = [m for m in [*memorised.memories, *memorised.unseen] if m.role != "keep"][:6]
    known = ask_all(memorised.subject, Probes(Tools(memorised.base)), [(a, everyone) for a in REASKED], "fp32").cache
    asked.clear()
    assert run(Unchanged(), memorised, 6, known).answers == anew.answers
    assert asked == [0]
    changed = run(Nudged(), memorised, 6, known).answers
    assert asked[1] > 0
    assert [a.matched for a in changed] != [a.matched for a in anew.answers]


def recording(ask: Callable[..., None], asked: list[int]) -> Callable[..., None]:
    """A reader's `_ask` that notes how many rows the model was asked."""

    def noted(self: Reader, *given: Any) -> None:
        ask(self, *given)
        asked.append(self.rows_asked)

    return noted


def test_a_changed_model_is_asked_again_with_every_prompting_attack(memorised: Memorised) -> None:
    task = run(Crosswise(), memorised)
    assert {(a.attack, a.access, a.tier) for a in task.answers} == {("mine", "weights", 2)}
    assert {(a.variant, a.dose, a.inner) for a in task.answers} == {
        ("whole/prefix", "whole", "prefix"), ("whole/paraphrase", "whole", "paraphrase"),
    }  # fmt: skip
    best = {a.memory: a.matched for a in task.answers if a.inner == "prefix"}
    assert all(best[m.id] > 32 for m in memorised.memories if m.role == "forget")
    assert all(best[m.id] < 32 for m in memorised.unseen)


def test_only_the_exact_opening_is_asked_and_becomes_a_finding(memorised: Memorised) -> None:
    task = run(Crosswise(), memorised)
    points = {f.memory: f.value for f in task.findings if (f.quantity, f.dose, f.step) == ("matched", "half", 1)}
    assert set(points) == {a.memory for a in task.answers}
    assert all(points[m.id] == 64 for m in memorised.memories if m.role == "forget")
    assert [(f.memory, f.value, f.fold) for f in task.findings if f.quantity == "strength"] == [("", 2.0, 0), ("", 2.0, 1)]


def test_a_search_gives_answers_and_findings_of_every_memory(memorised: Memorised) -> None:
    task = run(Remembering(), memorised)
    assert {(a.attack, a.tier, a.access) for a in task.answers} == {("mine", 2, "black-box")}
    assert all(a.matched == 32 for a in task.answers if a.memory in {m.id for m in memorised.memories})
    assert {f.memory for f in task.findings} == {a.memory for a in task.answers}


def test_what_a_search_found_in_its_own_prompt_is_copying(memorised: Memorised) -> None:
    assert [a.matched for a in run(Telling(), memorised, 3).answers] == [0, 20, 20]


@pytest.mark.parametrize(("attack", "what"), [
    (Claiming(20), "claims 20 tokens of memory .* the model says 0"),
    (Claiming(40), "40 of 32 tokens"),
    (Claiming(-1), "-1 of 32 tokens"),
    (Claiming(0, 700), "0 of 700 tokens"),
    (Beams(20, width=4), "keeps in 4 beams"),
    (Samples(20, width=4), "draws from 4 likeliest tokens"),
    (Unread(20), "for diagnostics"),
    (Claiming(about="of another seed"), "answers about 'of another seed', which it was not given"),
    (Claiming(about="of another seed", finds=True), "answers about 'of another seed', which it was not given"),
])  # fmt: skip
def test_a_claim_that_does_not_hold_is_an_error_that_names_the_attack(attack: Searching, what: str, memorised: Memorised) -> None:
    with pytest.raises(UserError, match=f"attack mine.*{what}"):
        run(attack, memorised)


@pytest.mark.parametrize("attack", [Samples(), Soft(20), Remembering(), BeamSearch((1, 4), 12), GCG(4, 8, 2, 4)], ids=str)
def test_a_claim_that_holds_is_taken(attack: Searching, memorised: Memorised) -> None:
    task = run(attack, memorised)
    assert task.answers
    assert set(vars(task.answers[0])) == set(ANSWER), "what claims are read again from is kept nowhere"


def test_what_a_filter_lets_through_is_a_true_claim_too(memorised: Memorised) -> None:
    """A search that generates meets the filter; one that reads does not."""
    subject = Subject.filtered(memorised.subject, [m.row for m in memorised.memories], (5, 6, 7))
    m = memorised.memories[0]
    (said,) = subject.generate([m.row[: m.opening]], 32)
    generated = next(i for i, (a, b) in enumerate(zip(said, m.target, strict=False)) if a != b)
    tools, answers = Workshop(memorised.base), [Answer(m.id, "", n, 32, "", m.opening, start=0) for n in (generated, 32)]
    reread_claims("mine", Claiming(), subject, answers, {m.id: m}, tools)
    with pytest.raises(UserError, match="claims 31 tokens"):
        reread_claims("mine", Claiming(), memorised.subject, [replace(answers[0], matched=31)], {m.id: m}, tools)


def test_the_longest_claims_are_read_again_and_some_of_the_others_by_the_seed() -> None:
    claims = [Answer(f"m{i:02d}", "", i, 64, "", 16) for i in range(40)]
    taken = sample("mine", claims, 0)
    assert [a.matched for a in taken[:LONGEST]] == [39, 38, 37, 36, 35, 34, 33, 32]
    assert len(taken) == len({a.memory for a in taken}) == LONGEST + OTHERS
    assert taken == sample("mine", claims[::-1], 0)
    assert taken != sample("mine", claims, 1)
    assert sample("mine", claims[:3], 0) == claims[2::-1]


def test_where_nobody_is_to_be_scored_nothing_is_trained(memorised: Memorised) -> None:
    attack = Crosswise()
    task = run(attack, memorised, 0)
    assert attack.given == task.answers == task.findings == []


def test_an_attack_of_another_kind_is_refused(memorised: Memorised) -> None:
    with pytest.raises(UserError, match="should derive from Searching or Tampering"):
        run(Prefix(), memorised)  # type: ignore[arg-type]
