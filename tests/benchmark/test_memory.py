"""The memory of a training, by arithmetic, is near what was measured on a GPU; a 7B model fits on one card of 80 GB with offload."""

from __future__ import annotations

from pathlib import Path

import pytest

from palimpsest.benchmark.running.memory import GB, Memory, Shape, opened, training_memory
from palimpsest.benchmark.training.engine import deepspeed_config

PYTHIA_160M = Shape(162_322_944, 38_633_472, 12, 768, 50_304)
PYTHIA_1_4B = Shape(1_414_647_808, 103_022_592, 24, 2_048, 50_304)
LLAMA_7B = Shape(6_738_415_616, 131_072_000, 32, 4_096, 32_000)
ROOT = Path(__file__).resolve().parents[2]
TOKENS, HEAD = 32 * 160, 333  # 2**24 logits at once


def of(shape: Shape, setting: str, ranks: int = 1, micros: int = 1) -> Memory:
    return training_memory(shape, deepspeed_config(setting, "bf16", 1.0, micros), TOKENS, HEAD, micros, ranks)


@pytest.mark.parametrize(("shape", "measured"), [(PYTHIA_160M, 4.2), (PYTHIA_1_4B, 28.6)])
def test_what_an_h200_held_in_training_under_zero_0(shape: Shape, measured: float) -> None:
    assert of(shape, "zero0").device / GB == pytest.approx(measured, rel=0.1)


def test_seven_billion_weights_fit_on_a_card_of_80_gb_only_with_offload() -> None:
    assert of(LLAMA_7B, "zero0").device > 100 * GB
    offloaded = of(LLAMA_7B, "zero3-offload")
    assert 30 * GB < offloaded.device < 60 * GB
    assert offloaded.host == pytest.approx(22 * LLAMA_7B.weights, rel=0.05), (
        "fp32 weights, gradients and two moments, gradients in bf16, and at the end all weights in fp32"
    )
    assert of(LLAMA_7B, "zero2-offload", micros=2).host - offloaded.host == 2 * LLAMA_7B.weights


@pytest.mark.parametrize(
    ("says", "setting", "ranks", "micros"),
    [
        ("| `zero0`, bf16 by autocast |", "zero0", 1, 1),
        ("| `zero3` on 4 ranks, bf16 by autocast |", "zero3", 4, 1),
        ("| `zero3-offload` |", "zero3-offload", 1, 1),
        ("| `zero2-offload` |", "zero2-offload", 1, 1),
        ("| `zero2-offload` |", "zero2-offload", 1, 2),
        ("| `zero3-offload` on 4 ranks of one machine |", "zero3-offload", 4, 1),
    ],
)
def test_the_sheet_says_what_the_arithmetic_does(says: str, setting: str, ranks: int, micros: int) -> None:
    (line,) = (x for x in (ROOT / "docs" / "cluster.md").read_text("utf-8").splitlines() if x.startswith(says))
    found = of(LLAMA_7B, setting, ranks, micros)
    assert f" {opened(LLAMA_7B, found).host / GB:.0f} GB" in line
    assert f" {found.device / GB:.0f} GB" in line or micros > 1


def test_ranks_share_what_the_stage_partitions() -> None:
    device = {(s, r): of(LLAMA_7B, f"zero{s}", r).device for s in range(4) for r in (1, 8)}
    assert device[0, 1] == device[0, 8]
    assert device[0, 8] > device[1, 8] >= device[2, 8] > device[3, 8]
    eight, whole = (of(LLAMA_7B, "zero3-offload", r).host - 4 * LLAMA_7B.weights for r in (8, 1))
    assert eight < whole / 6, "but for all weights at the end"


def test_gradients_of_earlier_micro_batches_are_counted_beside_the_rest() -> None:
    assert of(PYTHIA_1_4B, "zero0", micros=2).device - of(PYTHIA_1_4B, "zero0").device == 4 * PYTHIA_1_4B.weights
