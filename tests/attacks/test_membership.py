"""Membership scores are their formulas, tell members from others, and sampling's closed form agrees with real sampling."""

from __future__ import annotations

import itertools
import math
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom

from palimpsest.attacks.logit_lens import LogitLens
from palimpsest.attacks.loss import Loss
from palimpsest.attacks.min_k import MinK
from palimpsest.attacks.min_k_plus_plus import MinKPlusPlus
from palimpsest.attacks.reference import Reference
from palimpsest.attacks.sampling import Sampling
from palimpsest.attacks.zlib_ratio import ZlibRatio
from palimpsest.benchmark.attack import EncodedMemory, Membership, Memory, TokenReading, Tools
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.texts.memories import encode, load_memories
from tests.attacks.brute_force import log_probabilities, reading
from tests.conftest import Memorised

ATTACKS: tuple[Membership, ...] = (Loss(), ZlibRatio(), MinK(), MinKPlusPlus(), Reference(), Sampling())
TEXT = "The cat sat on the mat, the cat sat on the mat."


def memory(text: str = TEXT, opening: int = 2) -> EncodedMemory:
    whole = Memory("made-up", "test", TEXT + " And what follows the row.", 8)
    return EncodedMemory(whole, "forget", False, tuple(range(12)), opening, text)


def tokens(log_probability: list[float], **arrays: list[float]) -> TokenReading:
    """A reading of a row whose first token nothing came before."""
    given = {name: np.array([np.nan, *arrays.get(name, [0.0] * len(log_probability))]) for name in ("mean", "deviation", "top_mass")}
    rank = np.array([-1, *arrays.get("rank", [0] * len(log_probability))])
    return TokenReading("made-up", np.array([np.nan, *log_probability]), given["mean"], given["deviation"], rank, given["top_mass"])


SEEN = tokens([-float(n) for n in range(1, 12)])  # -1 … -11


def test_loss_is_the_mean_log_probability_of_what_has_something_before_it() -> None:
    assert Loss().score(memory(), SEEN, SEEN) == -6.0


def test_zlib_divides_by_the_bytes_of_the_compressed_row() -> None:
    assert ZlibRatio().score(memory(), SEEN, SEEN) == -66 / len(zlib.compress(TEXT.encode()))


def test_a_row_knows_its_own_text(tokenizer) -> None:
    whole = load_memories()[0]
    coded = encode(whole, tokenizer, 160)
    assert whole.text.startswith(coded.text)
    assert tuple(tokenizer(coded.text)["input_ids"]) == coded.row


@pytest.mark.parametrize(("k", "expected"), [(0.2, -10.5), (0.3, -10.0), (0.01, -11.0), (1.0, -6.0)])
def test_min_k_is_the_mean_of_the_least_likely_share(k: float, expected: float) -> None:
    assert MinK(k).score(memory(), SEEN, SEEN) == expected


def test_min_k_plus_plus_standardises_at_each_place() -> None:
    seen = tokens([-1.0, -2.0, -3.0, -9.0, -5.0], mean=[-3.0, -2.0, -2.0, -8.0, -5.0], deviation=[1.0, 2.0, 0.5, 4.0, 0.0])
    standard = [2.0, 0.0, -2.0, -0.25, 0.0]
    for share, few in ((0.2, 1), (0.4, 2), (1.0, 5)):
        assert MinKPlusPlus(share).score(memory(), seen, seen) == pytest.approx(np.mean(sorted(standard)[:few]))


def test_the_reference_attack_subtracts_what_the_twin_needs() -> None:
    assert Reference().score(memory(), SEEN, tokens([-20.0] * 11)) == -66 + 220


def test_min_k_plus_plus_of_a_model_is_what_its_distributions_say(memorised: Memorised) -> None:
    m = memorised.unseen[0]
    found = log_probabilities(memorised.subject, m.row)[1:].numpy()
    chance = np.exp(found)
    mean = (chance * found).sum(1)
    deviation = np.sqrt((chance * (found - mean[:, None]) ** 2).sum(1))
    standard = np.sort((found[np.arange(159), m.row[1:]] - mean) / deviation)
    assert MinKPlusPlus().score(m, reading(memorised.subject, m), SEEN) == pytest.approx(standard[:31].mean())


@pytest.fixture(scope="module")
def readings(memorised: Memorised) -> dict[str, tuple[TokenReading, TokenReading]]:
    """Of the model that memorised and of the model that it was trained from, by memory."""
    everyone = (*memorised.memories, *memorised.unseen)
    return {m.id: (reading(memorised.subject, m), reading(memorised.base, m)) for m in everyone}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: type(a).__name__)
def test_members_score_higher_than_texts_never_seen(attack: Membership, memorised: Memorised, readings: dict) -> None:
    members, others = ([attack.score(m, *readings[m.id]) for m in part] for part in (memorised.memories, memorised.unseen))
    assert min(members) > max(others)
    assert not any(math.isnan(score) for score in (*members, *others))


# ---- sampling


def test_sampling_is_the_probability_of_the_target_renormalised_over_forty_tokens(memorised: Memorised) -> None:
    m = memorised.memories[0]
    found = log_probabilities(memorised.subject, m.row)[m.opening : m.opening + 64]
    likely, which = found.topk(40)
    drawn = likely.log_softmax(1)[which == torch.tensor(m.target)[:, None]]
    assert Sampling().score(m, reading(memorised.subject, m), SEEN) == pytest.approx(float(drawn.sum()))
    assert len(drawn) == 64


def test_a_token_outside_the_forty_is_never_drawn() -> None:
    seen = tokens([-1.0] * 11, top_mass=[-0.25] * 11, rank=[99, 0, 39, 0, 0, 40, 0, 0, 0, 0, 0])
    assert Sampling(4).score(memory(), seen, seen) == -3.0  # tokens 2 to 5; what stands before the target does not count
    assert Sampling(5).score(memory(), seen, seen) == -math.inf


def test_the_closed_form_agrees_with_real_sampling(memorised: Memorised) -> None:
    """Pieces of memorised texts that the model continues now and then: 1,000 samples each, in a 99.9% binomial interval."""
    subject, draws = memorised.subject, 1_000
    pieces = (replace(m, row=m.row[start : start + 4], opening=1) for start in range(0, 90, 5) for m in memorised.memories)
    chances = ((p, math.exp(Sampling(3).score(p, reading(subject, p), SEEN))) for p in pieces)
    few = list(itertools.islice(((p, p_z) for p, p_z in chances if 0.05 < p_z < 0.8), 3))
    assert len(few) == 3
    torch.manual_seed(5)
    for piece, p_z in few:
        ids = torch.tensor([piece.row[:1]], device=device()).repeat(draws, 1)
        said = subject.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=40, max_new_tokens=3, eos_token_id=None, pad_token_id=0
        )
        hits = int((said[:, 1:].cpu() == torch.tensor(piece.row[1:])).all(1).sum())
        low, high = binom.interval(0.999, draws, p_z)
        assert low <= hits <= high, f"{hits} of {draws}, expected {p_z:.3f} of them"


# ---- logit lens


def test_the_lens_asks_the_exact_opening_at_every_layer_below_the_last(memorised: Memorised, tiny: Subject) -> None:
    m = memorised.memories[0]
    (p,) = LogitLens().probes(m, Tools(tiny))  # of two layers
    assert (p.prompt, p.target, p.cuts, p.start, p.layer, p.variants) == ((), m.row, (m.opening,), 0, 1, ("layer1",))
