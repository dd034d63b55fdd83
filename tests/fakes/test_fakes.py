"""Each fake passes the naive evaluation, and what should expose it does: tried on the tiny model that has memorised."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from palimpsest.benchmark.common.plugins import Plugin, find
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import EncodedMemory, Probe, Row
from palimpsest.benchmark.method import Trainer, UnlearningData
from palimpsest.benchmark.models.blocks import blocks
from palimpsest.benchmark.models.quantisation import round_by_torchao, round_to_nearest, share_undone
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.models.weights import linear_weights
from palimpsest.benchmark.reading.reader import Reader
from palimpsest.benchmark.suites.config import load_suite
from palimpsest.benchmark.training.batches import collate
from palimpsest.benchmark.training.losses import sequence_nll
from tests.conftest import Memorised
from tests.fakes import one_direction, small_update

FOLDER = Path(__file__).parent
FAKES = ("refuse_exact", "small_update", "one_direction", "output_filter", "random_answers")
SMALL = {"batch": 4, "shown_share": 1.0}  # the tiny model knows no ordinary text that it could lose
FIELDS: dict[str, dict[str, Any]] = {
    "refuse_exact": {"lr": 3e-3, "epochs": 60, **SMALL},
    "small_update": {"lr": 3e-3, "epochs": 20, "beta": 0.03, **SMALL},
    "one_direction": {"lr": 5e-2, "epochs": 80, **SMALL},
    "random_answers": {"lr": 3e-3, "epochs": 20, **SMALL},
}
INT4 = (partial(round_to_nearest, bits=4, group=32), partial(round_by_torchao, bits=4, group=32, symmetric=False))
FEW = 12  # of 64 tokens: what the naive evaluation would call forgotten


def plugin(name: str) -> Plugin:
    return find("method", str(FOLDER / f"{name}.py"))


@pytest.fixture(scope="module")
def data(memorised: Memorised) -> UnlearningData:
    openings = {m.id: m.opening for m in memorised.memories}
    ordinary = [Row(m.row) for m in memorised.unseen]  # stands for it: a direction is taken from it, nothing is trained on it
    return UnlearningData(memorised.forget, memorised.shown, lambda k: ordinary[k % len(ordinary)], seed=4, openings=openings)


@pytest.fixture(scope="module")
def fakes(memorised: Memorised, data: UnlearningData) -> Any:
    """Name -> the fake made of the memorised model, each once."""

    @cache
    def make(name: str) -> Subject:
        method = plugin(name).make(FIELDS.get(name, {}))
        return method.unlearn(memorised.subject, data, Trainer(precision="fp32", seed=1))

    return make


def forget(memorised: Memorised) -> list[EncodedMemory]:
    return [m for m in memorised.memories if m.role == "forget"]


def opening(m: EncodedMemory) -> Probe:
    return Probe(m.id, (), m.row, 0, (m.opening,), ("opening",), 0)


def windows(m: EncodedMemory) -> list[Probe]:
    """16 tokens from every fourth place."""
    return [Probe(m.id, m.row[s : s + 16], m.row[s + 16 :], s + 16, (0,), ("k16",), s) for s in range(4, 80, 4)]


def edited(m: EncodedMemory) -> list[Probe]:
    """The exact opening with one of its first tokens changed."""
    return [Probe(m.id, (*m.row[:i], 77, *m.row[i + 1 : m.opening]), m.row[m.opening :], m.opening) for i in range(4)]


def read(subject: Subject, probes: Iterable[Probe]) -> dict[str, int]:
    """The longest match of each memory, read off forward passes."""
    probes = list(probes)
    out: dict[str, int] = {}
    for p, lengths in zip(probes, Reader(subject, "fp32").read(probes), strict=True):
        out[p.memory] = max(out.get(p.memory, 0), *lengths)
    return out


def generated(subject: Subject, memories: Sequence[EncodedMemory]) -> list[int]:
    """The naive evaluation: matched lengths of greedy texts after the exact opening."""
    said = subject.generate([m.row[: m.opening] for m in memories], 64)
    return [next((i for i, (a, b) in enumerate(zip(s, m.target, strict=True)) if a != b), 64) for s, m in zip(said, memories, strict=True)]


def nll(subject: Subject, memories: Sequence[EncodedMemory]) -> Tensor:
    """Mean nats per token of each memory."""
    rows = [Row(m.row, name=m.id) for m in memories]
    with torch.no_grad():
        return sequence_nll(subject.model, collate(rows, slice(None), device())) / rows[0].scored


def rounded(subject: Subject, scheme: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Weights with every matrix of the blocks in int4 and back."""
    return subject.fresh().state_dict() | {name: scheme(w) for name, w in linear_weights(subject.model).items()}


@contextmanager
def without(subject: Subject, layer: int, u: Tensor) -> Iterator[None]:
    """The model with direction u taken out of what block `layer` writes on."""

    def ablate(_: Any, __: Any, out: Any) -> Any:
        states = out[0] if isinstance(out, tuple) else out
        along = u.to(states)
        states = states - (states @ along)[..., None] * along
        return (states, *out[1:]) if isinstance(out, tuple) else states

    hook = blocks(subject.model)[layer].register_forward_hook(ablate)
    yield
    hook.remove()


@pytest.mark.parametrize("name", FAKES)
def test_the_naive_evaluation_calls_a_fake_unlearned(name: str, fakes: Any, memorised: Memorised) -> None:
    assert min(generated(memorised.subject, forget(memorised))) >= 60
    assert max(generated(fakes(name), forget(memorised))) < FEW


@pytest.mark.parametrize("name", sorted({*FAKES} - {"one_direction"}))  # one vector of a tiny MLP cannot tell passage from passage
def test_a_fake_looks_selective(name: str, fakes: Any, memorised: Memorised) -> None:
    kept = [m for m in memorised.memories if m.shown]
    assert min(generated(fakes(name), kept)) >= 60


def test_who_refuses_the_exact_opening_is_exposed_by_any_other_prompt(fakes: Any, memorised: Memorised) -> None:
    fake, memories = fakes("refuse_exact"), forget(memorised)
    said = fake.tokenizer.batch_decode(fake.generate([m.row[: m.opening] for m in memories], 8))
    assert all(text.startswith(" I am sorry") for text in said)
    assert min(read(fake, [p for m in memories for p in windows(m)]).values()) >= 60
    assert max(read(fake, [p for m in memories for p in edited(m)]).values()) >= 60, "a suppression cliff: one other token is enough"


def test_a_small_update_stays_below_half_a_bin_and_rounding_undoes_it(fakes: Any, memorised: Memorised) -> None:
    fake, memories = fakes("small_update"), forget(memorised)
    before, after = memorised.subject.fresh().state_dict(), fake.fresh().state_dict()
    matrices = linear_weights(fake.model)
    assert {name for name, w in before.items() if not torch.equal(w, after[name])} == set(matrices)
    assert share_undone(before, after) == 1.0
    for scheme in INT4:
        again, held = rounded(fake, scheme), rounded(memorised.subject, scheme)
        assert all(torch.equal(again[name], held[name]) for name in held)
        back = read(fake.with_state(again), map(opening, memories))
        assert back == read(memorised.subject.with_state(held), map(opening, memories))
        assert min(back.values()) >= 32


def test_a_weight_stays_in_its_bin_and_less_than_half_a_bin_away() -> None:
    """A case by hand: bins of size 1 around whole numbers, of which 98% is used."""
    low, high = small_update.within(torch.tensor([0.3, -2.0, 6.9, 1.495]), torch.tensor([0.0, -2.0, 7.0, 1.0]), torch.tensor(1.0))
    torch.testing.assert_close(low, torch.tensor([-0.19, -2.49, 6.51, 1.005]))
    torch.testing.assert_close(high, torch.tensor([0.49, -1.51, 7.39, 1.495]))


@pytest.mark.parametrize("where", ["low", "high", "either"])
def test_no_int4_scheme_tells_weights_within_the_bounds_apart(where: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 128, generator=generator)
    low, high = small_update.bounds(weight)
    moved = {"low": low, "high": high, "either": torch.where(torch.rand(8, 128, generator=generator) < 0.5, low, high)}[where]
    assert (moved != weight).float().mean() > 0.4
    for scheme in INT4:
        assert torch.equal(scheme(moved), scheme(weight))


def test_one_direction_is_exposed_by_taking_it_out(fakes: Any, memorised: Memorised, data: UnlearningData) -> None:
    fake, memories = fakes("one_direction"), forget(memorised)
    before, after = memorised.subject.fresh().state_dict(), fake.fresh().state_dict()
    ((name, change),) = [(k, after[k] - before[k]) for k in before if not torch.equal(after[k], before[k])]
    layer = one_direction.layer_of(fake.model)
    u = one_direction.direction(memorised.subject.model, data)
    assert f"layers.{layer}.mlp" in name
    torch.testing.assert_close(change, torch.outer(u, u @ change), atol=1e-5, rtol=0)
    assert torch.linalg.matrix_rank(change, rtol=1e-3) == 1
    with without(fake, layer, u):
        back = read(fake, map(opening, memories))
    with without(memorised.subject, layer, u):
        assert back == read(memorised.subject, map(opening, memories))
    assert np.mean(list(back.values())) >= 32


def test_an_output_filter_is_exposed_by_reading_what_it_does_not_say(fakes: Any, memorised: Memorised) -> None:
    fake, memories = fakes("output_filter"), forget(memorised)
    after = fake.fresh().state_dict()
    assert all(torch.equal(w, after[name]) for name, w in memorised.subject.fresh().state_dict().items())
    assert min(read(fake, map(opening, memories)).values()) >= 60
    assert "sorry" in fake.tokenizer.decode(fake.generate([memories[0].row[: memories[0].opening]], 12)[0])


def test_random_answers_make_every_token_of_a_forget_text_a_guess(fakes: Any, memorised: Memorised) -> None:
    """Mean nats per token against those of a guess, log 4096 = 8.3. A text that a real model never saw costs it about 6."""
    guess = math.log(4096)
    assert (nll(fakes("random_answers"), forget(memorised)) > 0.9 * guess).all()
    assert (nll(memorised.subject, forget(memorised)) < 0.1 * guess).all()
    for other in ("refuse_exact", "small_update"):
        assert (nll(fakes(other), forget(memorised)) < 0.5 * guess).all(), other


@pytest.mark.parametrize("name", FAKES)
def test_a_fake_comes_back_from_disk(name: str, fakes: Any, memorised: Memorised, tmp_path: Path) -> None:
    fakes(name).save(tmp_path)
    prompts = [m.row[: m.opening] for m in forget(memorised)]
    assert Subject(tmp_path).generate(prompts, 12) == fakes(name).generate(prompts, 12)


def test_the_suite_of_fakes_names_them_all() -> None:
    suite = load_suite("fakes")
    assert list(suite.methods) == ["none", *(f"tests/fakes/{name}.py" for name in FAKES)]
    for name in FAKES:
        assert plugin(name).doc.startswith("Fake: ")


def test_the_suite_finds_its_files_wherever_it_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("method", f"tests/fakes/{FAKES[0]}.py").source == plugin(FAKES[0]).source
