"""Beam search: matched lengths and bounds against the library's own beam search."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from palimpsest.attacks.beam_search import BeamSearch, bounds, steps_in_beam
from palimpsest.benchmark.attack import Answer, EncodedMemory, Finding, Probe, Workshop
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.reader import Reader
from tests.attacks.brute_force import reading, window
from tests.attacks.searching import searching_tools
from tests.conftest import Memorised


@pytest.fixture(scope="module")
def tools(memorised: Memorised) -> Workshop:
    return searching_tools(memorised)


def partly_known(memorised: Memorised) -> list[EncodedMemory]:
    """Texts that the model holds, asked from places and with openings so short that it is not sure."""
    return [window(m, start, k) for m in memorised.memories[:4] for start, k in ((0, 1), (11, 1), (24, 2), (50, 2), (63, 1))]


@torch.no_grad()
def beams_of(subject: Subject, prompt: tuple[int, ...], tokens: int, width: int) -> list[tuple[int, ...]]:
    """What the library's own beam search returns."""
    ids = torch.tensor([prompt], device=device())
    said = subject.model.generate(
        ids, attention_mask=torch.ones_like(ids), num_beams=width, num_return_sequences=width, max_new_tokens=tokens,
        min_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0, length_penalty=0.0,
    )  # fmt: skip
    return [tuple(row) for row in said[:, len(prompt) :].tolist()]


@pytest.mark.parametrize("width", [2, 4, 16])
def test_a_matched_length_of_n_means_that_a_search_of_n_tokens_returns_the_text(width: int, memorised: Memorised) -> None:
    lengths = []
    for m in partly_known(memorised)[::2]:
        prompt, target = m.row[: m.opening], m.target[:10]
        n = steps_in_beam(memorised.subject, prompt, target, width)
        lengths.append(n)
        for tokens in {n, min(n + 1, 10)} - {0}:
            assert (target[:tokens] in beams_of(memorised.subject, prompt, tokens, width)) == (tokens <= n)
    assert len(set(lengths)) > 2


@pytest.mark.parametrize("width", [1, 4, 16])
def test_the_two_bounds_are_exact(width: int, memorised: Memorised) -> None:
    decided = 0
    for m in partly_known(memorised):
        least, most = bounds(reading(memorised.subject, m), m.opening, 12, width)
        steps = steps_in_beam(memorised.subject, m.row[: m.opening], m.target[:12], width)
        assert least <= steps <= most
        decided += least == most
    assert decided > 0
    assert width < 16 or decided < len(partly_known(memorised))


def test_a_beam_of_one_is_greedy(memorised: Memorised) -> None:
    for m in partly_known(memorised):
        ((greedy,),) = Reader(memorised.subject, "fp32").read([Probe(m.id, (), m.row, 0, (m.opening,), start=0)])
        assert steps_in_beam(memorised.subject, m.row[: m.opening], m.target, 1) >= greedy  # the reader takes copies off


def test_beam_search_searches_only_where_the_bounds_differ(memorised: Memorised, tools: Workshop, monkeypatch: Any) -> None:
    parts = {f"{i}": replace(m, memory=replace(m.memory, id=f"{i}")) for i, m in enumerate(partly_known(memorised))}
    tools = replace(tools, tokens={i: reading(memorised.subject, m) for i, m in parts.items()})
    searched: list[tuple[int, ...]] = []
    count = lambda subject, prompt, *rest: searched.append(prompt) or steps_in_beam(subject, prompt, *rest)  # noqa: E731
    monkeypatch.setattr("palimpsest.attacks.beam_search.steps_in_beam", count)
    found = list(BeamSearch((4,), 12).search(memorised.subject, list(parts.values()), tools))
    screened = {f.memory: f.value for f in found if isinstance(f, Finding)}
    assert {f.quantity for f in found if isinstance(f, Finding)} == {"screened_4"}
    assert 0 < list(screened.values()).count(0.0) == len(searched) < len(parts)
    for a in found:
        if isinstance(a, Answer):
            m = parts[a.memory]
            assert (a.variant, a.horizon) == ("beam4", 12)
            assert a.matched == steps_in_beam(memorised.subject, m.row[: m.opening], m.target[:12], 4)


def test_beam_search_reads_memories_itself_if_nobody_did(memorised: Memorised, tools: Workshop) -> None:
    memories = [memorised.memories[0], memorised.unseen[0]]
    known = list(BeamSearch().search(memorised.subject, memories, tools))
    assert list(BeamSearch().search(memorised.subject, memories, replace(tools, tokens={}))) == known
    assert [f.matched for f in known if isinstance(f, Answer)][:2] == [64, 64]
