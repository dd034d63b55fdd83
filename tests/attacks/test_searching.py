"""Every searching attack: the same alone, together and again, on every kind of model; and reading with what was read kept."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, replace

import pytest
import torch

from palimpsest.attacks.beam_search import BeamSearch
from palimpsest.attacks.compression_ratio import CompressionRatio
from palimpsest.attacks.exposure import Exposure
from palimpsest.attacks.gcg import GCG
from palimpsest.attacks.patching import Patching
from palimpsest.attacks.soft_prompt import SoftPrompt
from palimpsest.benchmark.attack import Answer, Finding, Searching, Workshop
from palimpsest.benchmark.attack_tools.decoding import Decoding
from palimpsest.benchmark.models.subject import Subject
from tests.attacks.brute_force import log_probabilities, reading, window
from tests.attacks.searching import searching_tools, with_first_id
from tests.conftest import Memorised


@pytest.fixture(scope="module")
def tools(memorised: Memorised) -> Workshop:
    return searching_tools(memorised)


SMALL = (
    BeamSearch(length=12),
    Exposure(texts=60, each=2, last=8),
    GCG(steps=3, candidates=4),
    CompressionRatio(elicited=4, steps=2, candidates=4),
    SoftPrompt(steps=2),
    Patching(),
)


def values(found: Iterable[Answer | Finding]) -> list[float]:
    return [f.matched if isinstance(f, Answer) else f.value for f in found]


# ---- every attack


@pytest.mark.parametrize("attack", SMALL, ids=lambda a: type(a).__name__)
def test_a_search_gives_the_same_alone_together_and_again_and_leaves_the_model_as_it_was(
    attack: Searching, memorised: Memorised, tools: Workshop
) -> None:
    memories = [*memorised.memories[:3], *(window(m, 3, 20) for m in memorised.unseen[:2])]
    subject = Subject(memorised.subject.folder)
    tools = replace(tools, tokens={m.id: reading(subject, m) for m in memories})
    model = subject.model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    together = [asdict(f) for f in attack.search(subject, memories, tools)]
    assert {f["memory"] for f in together} >= {m.id for m in memories[:3]}
    assert together == [asdict(f) for f in attack.search(subject, memories, tools)]
    for m in memories:
        assert [asdict(f) for f in attack.search(subject, [m], tools)] == [f for f in together if f["memory"] == m.id]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert flags == [p.requires_grad for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert not any(m.training or m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("attack", SMALL, ids=lambda a: type(a).__name__)
def test_a_search_works_on_two_models_combined_at_the_logits(attack: Searching, memorised: Memorised, tools: Workshop) -> None:
    both = Subject.difference(memorised.subject, memorised.base)
    found = values(attack.search(both, memorised.memories[:1], tools))
    assert found
    assert all(math.isfinite(v) for v in found)


@pytest.mark.parametrize("attack", SMALL, ids=lambda a: type(a).__name__)
def test_answers_are_about_the_standard_target(attack: Searching, memorised: Memorised, tools: Workshop) -> None:
    for f in attack.search(memorised.subject, memorised.memories[:2], tools):
        if isinstance(f, Answer):
            (m,) = (m for m in memorised.memories if m.id == f.memory)
            assert f.offset == m.opening
            assert 0 <= f.matched <= f.horizon <= len(m.target)


# ---- reading with what was read kept


@pytest.mark.parametrize("kind", ["cached", "combined", "first id"])
def test_kept_rows_say_what_a_whole_pass_says(kind: str, memorised: Memorised) -> None:
    subject = {
        "cached": memorised.subject,
        "combined": Subject.difference(memorised.subject, memorised.base),
        "first id": with_first_id(memorised.subject, 7),
    }[kind]
    row = memorised.memories[0].row
    rows = Decoding(subject, row[:5])
    rows.choose(torch.tensor([0, 0, 0]))
    rows.read(torch.tensor([[5, 6], [7, 8], [9, 10]]))
    rows.choose(torch.tensor([2, 0, 2, 1]))
    logits = rows.read(torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]])).cpu()
    for i, ids in enumerate(([9, 10, 1, 2], [5, 6, 3, 4], [9, 10, 5, 6], [7, 8, 7, 8])):
        whole = log_probabilities(subject, (*row[:5], *ids, 0))
        torch.testing.assert_close(logits[i].double().log_softmax(-1), whole[8:10], rtol=0, atol=1e-4)
        torch.testing.assert_close(rows.last[i].cpu(), logits[i, -1])
