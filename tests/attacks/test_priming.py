"""Priming shows other known pairs before the opening: never the memory itself, never one to be forgotten."""

from __future__ import annotations

from dataclasses import replace

import pytest

from palimpsest.attacks.priming import Priming
from palimpsest.benchmark.attack import Tools
from palimpsest.benchmark.common.types import EncodedMemory, Memory
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.texts.memories import encode, load_memories
from tests.conftest import Memorised


@pytest.fixture(scope="module")
def memories(tools: Tools) -> list[EncodedMemory]:
    return [encode(m, tools.tokenizer, 160) for m in load_memories()[::4]]


@pytest.fixture(scope="module")
def known(memories: list[EncodedMemory]) -> list[EncodedMemory]:
    return [replace(m, role="keep", shown=True) for m in memories[::2]]


def shown_in(prompt: tuple[int, ...], memory: EncodedMemory, known: list[EncodedMemory], tools: Tools) -> list[EncodedMemory]:
    """The memories whose pairs (32 tokens of target) make up a prompt, in order; nothing else may stand in it but the opening."""
    text, found = tools.decode(prompt), []
    assert text.endswith("\n\n" + memory.memory.opening)
    rest = text.removesuffix("\n\n" + memory.memory.opening)
    while rest:
        (one,) = [k for k in known if rest.startswith(tools.decode(k.row[: k.opening + 32]))]
        rest = rest.removeprefix(tools.decode(one.row[: one.opening + 32])).removeprefix("\n\n")
        found.append(one)
    return found


def test_a_prompt_is_n_pairs_with_blank_lines_between_and_the_opening(memories: list, known: list, memorised: Memorised) -> None:
    tools = Tools(memorised.base, 3, known)
    for m in memories[1::6]:
        probes = list(Priming().probes(m, tools))
        assert [p.variants[0] for p in probes] == ["pairs1", "pairs1", "pairs2", "pairs2", "pairs4", "pairs4"]
        for p in probes:
            pairs = shown_in(p.prompt, m, known, tools)
            assert len(pairs) == len({k.id for k in pairs}) == int(p.variants[0][5:])
            assert p.prompt[-m.opening :] == m.row[: m.opening]
            assert p.prompt[: pairs[0].opening + 32] == pairs[0].row[: pairs[0].opening + 32]
            assert (p.target, p.offset, p.start) == (m.target, m.opening, -1)


def test_pairs_of_the_same_domain_come_first_and_the_memory_itself_never(memories: list, known: list, memorised: Memorised) -> None:
    tools = Tools(memorised.base, 3, known)
    assert known[0].id == memories[0].id
    for m in memories[:12]:
        own = [k for k in known if k.memory.domain == m.memory.domain and k.id != m.id]
        for p in Priming(tries=3).probes(m, tools):
            pairs = shown_in(p.prompt, m, known, tools)
            assert m.id not in {k.id for k in pairs}
            ours = [k.memory.domain == m.memory.domain for k in pairs]
            assert ours == sorted(ours, reverse=True)
            assert sum(ours) == min(len(own), len(pairs))


def test_only_shown_keep_memories_are_used_whatever_is_known(memorised: Memorised) -> None:
    everything = [*memorised.memories, *memorised.unseen]
    shown = [m for m in everything if m.shown]
    for m in everything:
        given, right = (list(Priming().probes(m, Tools(memorised.base, 3, known))) for known in (everything, shown))
        assert given == right
        assert given


def test_nothing_is_asked_where_too_little_is_known(memorised: Memorised) -> None:
    m, other = memorised.memories[0], next(m for m in memorised.memories if m.shown)
    assert list(Priming().probes(m, Tools(memorised.base, 3))) == []
    assert list(Priming().probes(other, Tools(memorised.base, 3, [other]))) == []
    assert {p.variants[0] for p in Priming().probes(m, Tools(memorised.base, 3, [other]))} == {"pairs1"}


def test_a_pair_that_gives_the_target_away_is_not_shown(memories: list, memorised: Memorised) -> None:
    m = memories[1]
    stolen = " ".join(m.memory.text[m.memory.opening_end :].split()[3:8])
    text = f"Someone said to the others, {stolen}, and so on. " + "Then they went home again. " * 30
    tools = Tools(memorised.base, 3)
    thief = EncodedMemory(Memory("thief", m.memory.domain, text, 27), "keep", True, tools.encode(text)[:160], len(tools.encode(text[:27])))
    other = replace(memories[0], role="keep", shown=True)
    for p in Priming(pairs=(1,)).probes(m, Tools(memorised.base, 3, [thief, other])):
        assert [k.id for k in shown_in(p.prompt, m, [thief, other], tools)] == [other.id]


def test_the_memorys_own_opening_is_never_shown_as_a_pair(known: list, memorised: Memorised) -> None:
    own, other = known[0], known[1]
    for p in Priming(pairs=(1,), length=1, tries=20).probes(own, Tools(memorised.base, 3, [own, other])):
        assert p.prompt[: other.opening] == other.row[: other.opening]


def test_what_does_not_fit_the_context_is_left_out(memories: list, known: list, memorised: Memorised) -> None:
    tools = Tools(Subject(memorised.base.folder), 3, known)
    everything = list(Priming().probes(memories[1], tools))
    for most in (512, 300, 150):
        tools.base.model.config.max_position_embeddings = most
        assert list(Priming().probes(memories[1], tools)) == [p for p in everything if len(p.prompt) + 64 <= most]


def test_drawings_differ_between_tries_seeds_and_memories(memories: list, known: list, memorised: Memorised) -> None:
    def pairs(m: EncodedMemory, seed: int) -> list[list[str]]:
        tools = Tools(memorised.base, seed, known)
        return [[k.id for k in shown_in(p.prompt, m, known, tools)] for p in Priming(pairs=(4,), tries=4).probes(m, tools)]

    first = pairs(memories[1], 0)
    assert len({tuple(p) for p in first}) > 1
    assert first != pairs(memories[1], 1)
    assert first == pairs(memories[1], 0)
