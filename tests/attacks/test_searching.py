"""Searching attacks: beams against real beam search, exposure and patching against brute force, prompts that are optimised."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from palimpsest.attacks.beam_search import BeamSearch, bounds, steps_in_beam
from palimpsest.attacks.compression_ratio import CompressionRatio
from palimpsest.attacks.exposure import Exposure, _synonyms
from palimpsest.attacks.exposure import log_probabilities as shared_log_probabilities
from palimpsest.attacks.gcg import GCG
from palimpsest.attacks.patching import Patching, drops
from palimpsest.attacks.soft_prompt import SoftPrompt
from palimpsest.benchmark.attack import Answer, EncodedMemory, Finding, Memory, Probe, Searching, Workshop
from palimpsest.benchmark.attack_tools.decoding import Decoding
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
from palimpsest.benchmark.attack_tools.synonyms import synonyms
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.reader import Reader
from tests.attacks.brute_force import log_probabilities, reading, window
from tests.conftest import Memorised

SMALL = (
    BeamSearch(length=12),
    Exposure(texts=60, each=2, last=8),
    GCG(steps=3, candidates=4),
    CompressionRatio(elicited=4, steps=2, candidates=4),
    SoftPrompt(steps=2),
    Patching(),
)


@pytest.fixture(scope="module")
def tools(memorised: Memorised) -> Workshop:
    everyone = (*memorised.memories, *memorised.unseen)
    seen = {m.id: reading(memorised.subject, m) for m in everyone}
    return Workshop(memorised.base, seed=3, tokens=seen, held=memorised.subject, twin=memorised.base, precision="fp32")


@pytest.fixture(scope="module")
def llama(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """An untrained model of another family, three layers, its head tied to its embeddings."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(1)
    shape = LlamaConfig(
        vocab_size=4096, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, intermediate_size=64,
        max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Subject(folder)


def with_first_id(subject: Subject, bos: int) -> Subject:
    """The same model as if every text began with this id."""
    other = Subject(subject.folder, subject.state)
    other.__dict__["bos"] = bos
    return other


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


# ---- beam search


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


# ---- exposure


def test_siblings_are_as_many_as_asked_all_different_all_of_one_length_and_never_the_text(memorised: Memorised, tools: Workshop) -> None:
    attack = Exposure()
    for m in (*memorised.memories, *memorised.unseen):
        slots = attack._slots(m, tools)
        texts = attack._texts(m, slots, tools)
        assert texts.shape == (1000, slots[-1].end - m.opening)
        assert len(np.unique(texts, axis=0)) == 1000
        assert texts[0].tolist() == list(m.row[m.opening : slots[-1].end])
        assert slots[-1].end <= m.opening + 32
        assert all(a.end <= b.begin for a, b in itertools.pairwise(slots))
        assert all(m.row[s.begin : s.end] == s.choices[0] for s in slots)


def test_synonyms_take_as_many_tokens_as_the_word(tools: Workshop) -> None:
    text = "It was late, and the big house stood there with an old roof. " + "Nobody came. " * 60
    whole = tools.encode(text)
    m = EncodedMemory(Memory("made-up", "test", text, 12), "forget", False, whole[:160], len(tools.encode(text[:12])))
    slots = list(_synonyms(m, 60, tools))
    assert slots
    for s in slots:
        assert s.choices[0] == whole[s.begin : s.end]
        assert len(s.choices) > 1
        for ids in s.choices[1:]:
            said = tools.decode((*whole[: s.begin], *ids, *whole[s.end :]))
            assert tools.encode(said) == (*whole[: s.begin], *ids, *whole[s.end :])
            pairs = [(old, new) for old, new in zip(text.split(), said.split(), strict=True) if old != new and old not in ("a", "an")]
            ((old, new),) = pairs
            assert new.strip(",.") in synonyms()[old.strip(",.")]
    assert not list(_synonyms(m, m.opening + 1, tools)), "nothing beyond the span"


def test_siblings_do_not_depend_on_the_model_under_attack(memorised: Memorised, tools: Workshop) -> None:
    asked: list[bytes] = []

    class Noting(Exposure):
        def _texts(self, *given: Any) -> np.ndarray:
            asked.append(super()._texts(*given).tobytes())
            return np.frombuffer(asked[-1], dtype=int).reshape(20, -1).copy()

    for subject in (memorised.subject, memorised.base):
        list(Noting(texts=20).search(subject, memorised.memories[:2], tools))
    assert asked[:2] == asked[2:]


@pytest.mark.parametrize("bos", [None, 7])
def test_texts_that_share_beginnings_score_as_each_alone(bos: int | None, memorised: Memorised, tools: Workshop) -> None:
    subject = memorised.subject if bos is None else with_first_id(memorised.subject, bos)
    m = memorised.unseen[0]
    attack = Exposure(texts=40, each=3, last=4)
    slots = attack._slots(m, tools)
    texts = attack._texts(m, slots, tools)
    ends = sorted({place - m.opening for s in slots for place in (s.begin, s.end)} - {0})
    found = shared_log_probabilities(subject, m.row[: m.opening], texts, ends)
    for score, ids in zip(found, texts.tolist(), strict=True):
        whole = log_probabilities(subject, (*m.row[: m.opening], *ids))[m.opening :]
        assert score == pytest.approx(float(whole.gather(1, torch.tensor(ids)[:, None]).sum()), abs=1e-3)


def test_what_is_held_stands_out_among_its_siblings(memorised: Memorised, tools: Workshop) -> None:
    attack = Exposure(texts=200)
    held = [f.value for f in attack.search(memorised.subject, memorised.memories, tools)]
    never = [f.value for f in attack.search(memorised.base, memorised.memories, tools)]
    assert held == [math.log2(200)] * 8
    assert max(never) < math.log2(200) - 1


def test_a_model_that_tells_nothing_apart_exposes_nothing(memorised: Memorised, tools: Workshop) -> None:
    weights = memorised.base.model.state_dict()
    blind = memorised.base.with_state(weights | {"lm_head.weight": torch.zeros_like(weights["lm_head.weight"])})
    found = list(Exposure(texts=50).search(blind, memorised.memories[:2], tools))
    assert [f.value for f in found] == [0.0, 0.0]


# ---- optimised prompts


def pairs(memories: tuple[EncodedMemory, ...], prompt: int, target: int) -> list[Wanted]:
    draws = np.random.default_rng
    return [Wanted(last_tokens(m, prompt), m.target[:target], draws(i), m.target) for i, m in enumerate(memories)]


def loss_of(subject: Subject, prompt: tuple[int, ...], target: tuple[int, ...]) -> float:
    found = log_probabilities(subject, prompt + target)[len(prompt) :]
    return -float(found.gather(1, torch.tensor(target)[:, None]).mean())


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


# ---- patching


def test_depth_is_zero_for_the_held_model_and_one_for_the_twin(memorised: Memorised, tools: Workshop) -> None:
    memories = memorised.memories[:4]
    assert [f.value for f in Patching().search(memorised.subject, memories, tools)] == [0.0] * 4
    assert [f.value for f in Patching().search(memorised.base, memories, tools)] == [1.0] * 4
    weights = memorised.base.model.state_dict()
    between = memorised.base.with_state({k: 0.5 * (v + weights[k]) for k, v in memorised.subject.model.state_dict().items()})
    assert all(0.0 < f.value < 1.0 for f in Patching().search(between, memories, tools))


def test_depth_weighs_layers_by_what_the_twin_lacks(memorised: Memorised, tools: Workshop, monkeypatch: Any) -> None:
    d = {id(tools.twin): [[0.04, 1.0, 3.0], [0.05, 0.0, -1.0]], id(memorised.subject): [[9.0, 0.5, 4.0], [1.0, 1.0, 1.0]]}
    monkeypatch.setattr("palimpsest.attacks.patching.drops", lambda held, source, memories: np.array(d[id(source)]))
    found = list(Patching().search(memorised.subject, memorised.memories[:2], tools))
    assert [(f.memory, f.quantity, f.value) for f in found] == [(memorised.memories[0].id, "depth", pytest.approx((0.5 + 3.0) / 4.0))]


@pytest.mark.parametrize("family", ["gpt-neox", "llama", "first id"])
def test_patching_the_last_layer_makes_the_held_model_say_what_the_source_says(family: str, memorised: Memorised, llama: Subject) -> None:
    """With one block changed, states before it are the same, and after the last block the source's own answer follows."""
    held = {"gpt-neox": memorised.subject, "llama": llama, "first id": with_first_id(memorised.subject, 7)}[family]
    weights = held.model.state_dict()
    last = held.model.config.num_hidden_layers - 1
    draws = torch.Generator().manual_seed(0)
    changed = {k: v + 0.1 * torch.randn(v.shape, generator=draws) for k, v in weights.items() if f".{last}." in k}
    source = held.with_state(weights | changed)
    source.__dict__["bos"] = held.bos
    memories = [memorised.memories[0], window(memorised.memories[1], 20, 9)]  # of different lengths
    found = drops(held, source, memories)
    assert found[:, :last] == pytest.approx(0, abs=1e-5)
    for m, drop in zip(memories, found[:, last], strict=True):
        mine, theirs = (-loss_of(s, m.row[: m.opening], m.target) for s in (held, source))
        assert drop == pytest.approx(mine - theirs, abs=1e-3)
        assert abs(drop) > 1e-3


def test_patching_without_a_twin_says_what_it_needs(memorised: Memorised, tools: Workshop) -> None:
    with pytest.raises(UserError, match="retrained twin"):
        list(Patching().search(memorised.subject, memorised.memories[:1], replace(tools, twin=None)))
