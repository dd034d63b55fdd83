"""Prompts that are optimised: gradients, greedy search over tokens, compression ratios, soft tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from palimpsest.attacks.compression_ratio import CompressionRatio
from palimpsest.attacks.gcg import GCG
from palimpsest.attacks.soft_prompt import SoftPrompt
from palimpsest.benchmark.attack import EncodedMemory, Probe, Workshop
from palimpsest.benchmark.attack_tools.gcg import (
    Budget,
    Wanted,
    _candidates,
    _runs,
    continuation_logits,
    elicit,
    last_tokens,
    one_hot_gradient,
    replaced_embeddings,
)
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.reader import Reader
from tests.attacks.brute_force import window
from tests.attacks.searching import loss_of, searching_tools, with_first_id
from tests.conftest import Memorised


@pytest.fixture(scope="module")
def tools(memorised: Memorised) -> Workshop:
    return searching_tools(memorised)


def pairs(memories: tuple[EncodedMemory, ...], prompt: int, target: int) -> list[Wanted]:
    draws = np.random.default_rng
    return [Wanted(last_tokens(m, prompt), m.target[:target], draws(i), m.target) for i, m in enumerate(memories)]


@pytest.mark.parametrize("bos", [None, 7])
def test_the_gradient_is_that_of_the_loss_with_respect_to_one_hot_vectors(bos: int | None, memorised: Memorised) -> None:
    subject = memorised.subject if bos is None else with_first_id(memorised.subject, bos)
    m = memorised.unseen[0]
    prompt, target = m.row[:6], m.row[6:10]
    table = subject.model.get_input_embeddings().weight.detach()
    one_hot = F.one_hot(torch.tensor(subject.with_bos(prompt + target), device=device()), 4096).float().requires_grad_()
    logits = subject.model(inputs_embeds=(one_hot @ table)[None]).logits[0, -5:-1]
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor(target, device=device())), one_hot)
    found = one_hot_gradient(subject, torch.tensor([prompt], device=device()), torch.tensor([target], device=device()))
    torch.testing.assert_close(found[0], expected[-10:-4], rtol=1e-3, atol=1e-6)


def test_the_gradient_of_two_models_combined_goes_through_both(memorised: Memorised) -> None:
    """Changing a token by a small step along its one-hot vector changes the loss as the gradient says, through both tables."""
    both = Subject.difference(memorised.subject, memorised.base)
    m = memorised.memories[0]
    prompts, targets = torch.tensor([m.row[:4]], device=device()), torch.tensor([m.row[4:7]], device=device())
    gradient = one_hot_gradient(both, prompts, targets)[0, 2]
    which, tables = int(gradient.abs().argmax()), [m for m in both.model.base_model.modules() if isinstance(m, torch.nn.Embedding)]
    assert len(tables) == 2

    @torch.no_grad()
    def loss(step: float) -> float:
        def moved(number: int, out: torch.Tensor) -> torch.Tensor:
            out[0, 2] += step * tables[number].weight[which]
            return out

        with replaced_embeddings(both.model, moved):
            return F.cross_entropy(continuation_logits(both, prompts, targets)[0], targets[0]).item()

    assert (loss(0.01) - loss(-0.01)) / 0.02 == pytest.approx(gradient[which].item(), rel=0.05)


def test_a_search_lowers_the_loss_and_reports_the_loss_of_its_prompt(memorised: Memorised) -> None:
    wanted = pairs(memorised.unseen, 6, 8)
    found = elicit(memorised.subject, wanted, Budget(steps=8, candidates=16, top=32))
    for w, f in zip(wanted, found, strict=True):
        assert f.loss == pytest.approx(loss_of(memorised.subject, f.prompt, w.target), abs=1e-3)
    before = [loss_of(memorised.subject, w.prompt, w.target) for w in wanted]
    assert np.mean([f.loss for f in found]) < np.mean(before) - 0.3


def test_a_search_mends_a_prompt_with_a_wrong_token(memorised: Memorised) -> None:
    """The beginning elicits what follows; with one token changed it does not, until the search changes a token again."""
    subject, broken, mended = memorised.subject, 0, 0
    for m in memorised.memories:
        prompt, target = m.row[:3], m.row[3:11]
        spoilt = (9, *prompt[1:])
        if matched(subject, spoilt, target) < 8 == matched(subject, prompt, target):
            broken += 1
            (f,) = elicit(subject, [Wanted(spoilt, target, np.random.default_rng(0))], Budget(steps=20, candidates=24, top=64))
            assert f.matched == matched(subject, f.prompt, target)
            mended += f.matched == 8
    assert broken > 0
    assert mended == broken


def matched(subject: Subject, prompt: tuple[int, ...], target: tuple[int, ...]) -> int:
    """Greedy tokens equal to the target's, by generating."""
    (said,) = subject.generate([prompt], len(target))
    return int((torch.tensor(said) == torch.tensor(target)).long().cumprod(0).sum())


def test_no_candidate_copies_five_ids_of_the_secret(memorised: Memorised) -> None:
    """A model that repeats what it reads would be shown the text itself; here every replacement offered is of the text."""
    secret = tuple(range(100, 120))
    offered = np.array([[100 + i] for i in range(8)])
    prompt = np.array([100, 101, 102, 103, 7, 105, 106, 107])
    rows = _candidates(prompt, offered, np.random.default_rng(0), _runs(secret, 5), Budget(1, 40))
    assert not any(_runs(secret, 5) & _runs(r, 5) for r in rows.tolist())
    assert any((r == prompt).all() for r in rows)


def test_special_ids_are_never_put_into_a_prompt(memorised: Memorised) -> None:
    special = set(memorised.subject.tokenizer.all_special_ids)
    found = elicit(memorised.subject, pairs(memorised.unseen, 4, 4), Budget(steps=4, candidates=64, top=4096))
    assert special
    assert not any(special & set(f.prompt) for f in found)


def test_an_opening_that_is_too_short_is_repeated(memorised: Memorised) -> None:
    m = replace(memorised.memories[0], opening=3)
    a, b, c = m.row[:3]
    assert last_tokens(m, 8) == (b, c, a, b, c, a, b, c)
    assert last_tokens(m, 2) == (b, c)


def test_gcg_elicits_what_is_held_and_scores_the_whole_target(memorised: Memorised, tools: Workshop) -> None:
    memories = [window(m, 0, 16) for m in (*memorised.memories, *memorised.unseen)]
    answers = list(GCG(steps=2, candidates=4).search(memorised.subject, memories, tools))
    assert [a.matched for a in answers[:8]] == [64] * 8
    assert max(a.matched for a in answers[8:]) < 8
    assert {a.horizon for a in answers} == {64}


def test_the_compression_ratio_is_above_one_for_what_is_held_and_zero_for_the_rest(memorised: Memorised, tools: Workshop) -> None:
    attack = CompressionRatio(elicited=8, steps=3, candidates=8)
    memories = [window(m, 0, 4) for m in (*memorised.memories[:4], *memorised.unseen)]
    found = [f.value for f in attack.search(memorised.subject, memories, tools)]
    assert min(found[:4]) >= 2
    assert set(found[4:]) == {0.0}


@pytest.mark.parametrize("shortest", range(1, 17))
def test_bisection_ends_at_the_shortest_prompt_that_works(shortest: int, memorised: Memorised, tools: Workshop, monkeypatch: Any) -> None:
    lengths = []

    def halve(self: CompressionRatio, subject: Subject, length: int, group: Any, tools: Workshop) -> None:
        lengths.append(length)
        for b in group:
            b.works, b.fails = (length, b.fails) if length >= shortest else (b.works, length)

    monkeypatch.setattr(CompressionRatio, "_halve", halve)
    (f,) = CompressionRatio().search(memorised.subject, memorised.memories[:1], tools)
    assert f.value == (16 / shortest if shortest < 16 else 0)
    assert len(lengths) <= 4


def test_soft_tokens_elicit_more_the_longer_they_are_optimised(memorised: Memorised, tools: Workshop) -> None:
    memories = memorised.memories[:4]
    none, some = ([a.matched for a in SoftPrompt(steps=n).search(memorised.subject, memories, tools)] for n in (0, 60))
    plain = Reader(memorised.subject, "fp32").read([Probe(m.id, last_tokens(m, 8), m.target, m.opening) for m in memories])
    assert none == [n for (n,) in plain], "without a step they are the embeddings of the opening's last tokens"
    assert sum(some) > sum(none) + 40
