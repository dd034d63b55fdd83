"""Split products: close decisions of bf16 are made again by them where fp32 is slow, and in fp32 only where they are close even so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from palimpsest.benchmark.common.types import Probe
from palimpsest.benchmark.models.split import Split, fits
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.cascade import Cascade
from palimpsest.benchmark.reading.margins import FULL, SPLIT
from palimpsest.benchmark.reading.reader import Reader
from tests.benchmark.windows import every_window, fp32
from tests.conftest import Memorised


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 512), nn.Linear(512, 64, bias=False)).double().float()


@torch.no_grad()
def test_they_are_hundreds_of_times_nearer_than_bf16_and_leave_the_model_as_it_was() -> None:
    model, x = mlp(), torch.randn(3, 40, 256)  # on the CPU, where the same numbers are multiplied in fp32
    exact = model.double()(x.double()).float()
    model.float()
    plain = model(x)
    with Split(model).products():
        split = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(x).float()
    assert split.shape == exact.shape
    assert split.dtype == torch.float32
    off = [float((found - exact).abs().max()) for found in (low, split, plain)]
    assert off[0] > 100 * off[1] > 100 * off[2]
    assert torch.equal(model(x), plain)


@torch.no_grad()
def test_weights_that_are_bf16_numbers_need_two_products() -> None:
    model, x = mlp().bfloat16().float(), torch.randn(2, 256)
    split = Split(model)
    assert all(low is None for _, low in split.parts.values())
    with split.products():
        assert torch.allclose(model(x), model.double()(x.double()).float(), atol=1e-4)


def test_they_are_for_a_gpu_and_for_weights_in_fp32() -> None:
    assert not fits(mlp())
    assert not fits(nn.Sequential(nn.ReLU()))
    assert len(Split(mlp().bfloat16()).parts) == 0


@pytest.fixture
def probes(memorised: Memorised) -> list[Probe]:
    return [p for m in memorised.memories[:4] for p in every_window(m)]


def test_lengths_are_those_of_fp32_which_is_asked_for_less(probes: list[Probe], blurred: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, asked = fp32(blurred).read(probes), _counted(monkeypatch)
    monkeypatch.setattr("palimpsest.benchmark.reading.cascade.fits", lambda _: False)  # as without a GPU
    plain = Reader(blurred, "bf16")
    assert plain.read(probes) == reference
    before = asked.pop(FULL)
    assert SPLIT not in asked
    monkeypatch.setattr("palimpsest.benchmark.reading.cascade.fits", lambda _: True)
    reader = Reader(blurred, "bf16")
    assert reader.read(probes) == reference
    assert asked[SPLIT] > 0
    assert asked.get(FULL, 0) < before / 4
    assert reader.gates.split.pairs < reader.gates.low.pairs
    assert reader.gates.split.width < reader.gates.low.width / 10


def test_products_that_err_are_found_out_and_fp32_serves(probes: list[Probe], blurred: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, asked = fp32(blurred).read(probes), _counted(monkeypatch)
    monkeypatch.setattr("palimpsest.benchmark.reading.cascade.fits", lambda _: True)
    monkeypatch.setattr("palimpsest.benchmark.models.split._product", lambda x, high, low, bias: x.new_zeros(*x.shape[:-1], len(high)))
    reader = Reader(blurred, "bf16")
    assert reader.read(probes) == reference
    assert reader.gates.split.holds is False
    assert SPLIT not in asked


def _counted(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Tokens given at each level; filled as models are read."""
    asked: dict[int, int] = {}
    sweep = Cascade._sweep

    def counting(self: Cascade, jobs: Any, given: Any, level: int, *rest: Any, **more: Any) -> None:
        asked[level] = asked.get(level, 0) + sum(given)
        sweep(self, jobs, given, level, *rest, **more)

    monkeypatch.setattr(Cascade, "_sweep", counting)
    return asked
