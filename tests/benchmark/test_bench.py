"""What `make bench` counts and compares; not how long it takes."""

from __future__ import annotations

import math
import platform
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.table import Table

from palimpsest.benchmark.bench import pieces
from palimpsest.benchmark.bench.__main__ import imitated
from palimpsest.benchmark.bench.budget import Budget, spread
from palimpsest.benchmark.bench.reading import (
    flops,
    generated_lengths,
    matmul_peak,
    random_subject,
    reading,
    shapes,
    spaced,
    windows,
)
from palimpsest.benchmark.commands.progress import Display
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.reader import Reader
from tests.conftest import Memorised

TINY = {"tiny shape": (32, 2, 2)}


def test_windows_have_one_row_per_start_and_a_cut_for_every_length_that_fits() -> None:
    probes = windows({"m": tuple(range(100))})
    assert len(probes) == 92
    assert [p.variants for p in (probes[0], probes[40], probes[90])] == [("8", "16", "32", "64"), ("8", "16", "32"), ("8",)]
    assert all(p.prompt + p.target == tuple(range(p.offset - 8, min(100, p.offset + max(p.cuts) + 64))) for p in probes)


def test_generating_and_reading_agree_on_the_windows_of_bench(memorised: Memorised) -> None:
    probes = windows({m.id: m.row[:60] for m in memorised.memories[:2]})
    read = [n for answer in Reader(memorised.subject).read(probes) for n in answer]
    assert generated_lengths(memorised.subject, probes) == read
    assert max(read) > 30


def test_flops_are_two_for_each_weight_of_a_product(memorised: Memorised) -> None:
    model = memorised.subject.model
    reader = Reader(memorised.subject, "fp32")
    reader.read(windows({"m": memorised.memories[0].row[:40]})[:1])
    body = sum(m.weight.numel() for m in model.base_model.modules() if isinstance(m, torch.nn.Linear))
    head = model.get_output_embeddings().weight.numel()
    assert flops(reader) == 2 * body * reader.tokens + 2 * head * reader.decisions
    assert (reader.tokens, reader.decisions) == (39, 32), "all but the last token are given; what follows the first eight is decided"


@pytest.mark.parametrize(
    ("precision", "compared"), [("fp32", ["head of 70 words"]), ("bf16", ["head of 70 words", "attention, 2 heads on 1"])]
)
def test_pieces_of_a_step_are_compared_where_they_are_ours(precision: str, compared: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORDS": 70, "WIDTH": 16, "ROWS": 2, "LENGTH": 5, "HEADS": 2, "SHARED": 2}.items():
        monkeypatch.setattr(pieces, name, value)
    table = Table("what", "figure", "ratio", "against")
    with Display(Console(quiet=True)) as display:
        pieces.pieces(table, display, precision)
    told = [f"{what}, {precision}" for what in compared]
    assert list(table.columns[0].cells) == (told if device().type == "cpu" else told[:1])


def test_models_of_other_shapes_are_made_and_read(memorised: Memorised, tmp_path: Path) -> None:
    """The path that a GPU takes, with a tiny shape."""
    table = Table("what", "figure", "ratio", "against")
    shapes(tmp_path, memorised.base, {"fp32": 1e12, "bf16": 2e12}, table, Display(Console(), quiet=True), TINY, length=24)
    assert table.row_count == 2
    figures = list(table.columns[1].cells)
    assert all(" 0 differ" in str(f) for f in figures), figures
    subject = random_subject(tmp_path / "other", memorised.base, 32, 2, 2)
    assert subject.model.get_output_embeddings().weight.shape == (50304, 32)
    assert min(matmul_peak(p, 0.01, 64) for p in ("fp32", "bf16")) > 1e6


def test_a_comparison_takes_what_its_time_allows_but_never_less_than_what_means_something() -> None:
    budget = Budget(100, comparisons=2)
    assert budget.fitting(5, least=2, most=30) == 9, "half of the time is for the other comparison"
    assert budget.fitting(5, least=2, most=30) == 19, "what is left is all its own"
    assert Budget(100, 1).fitting(90, least=2, most=30) == 2
    assert Budget(100, 1).fitting(1, least=2, most=30) == Budget(math.inf, 3).fitting(1e6, least=2, most=30) == 30
    assert Budget(-1, 1).spent
    assert not budget.spent
    assert not Budget(math.inf, 1).spent


def test_fewer_windows_are_of_all_memories_and_places() -> None:
    probes = windows({name: tuple(range(100)) for name in "abcd"})
    few = spaced(probes, 16)
    assert [p.memory for p in few] == [name for name in "abcd" for _ in range(4)]
    assert [p.offset for p in few[:4]] == [8, 31, 54, 77]
    assert spaced(probes, 10_000) == probes


def test_a_ratio_comes_with_the_range_of_its_rounds() -> None:
    assert spread([9.04, 8.0, 8.26]) == "8.3x (8.0 to 9.0)"
    assert spread([1.1, 0.9, 1.02], " of its time") == "1.02 of its time (0.90 to 1.10)"


def test_where_time_is_short_fewer_windows_are_compared_and_where_it_is_over_none(memorised: Memorised) -> None:
    rows = {m.id: m.row[:90] for m in memorised.memories[:2]}
    table, display = Table("what", "figure", "ratio", "against"), Display(Console(), quiet=True)
    reading("short", memorised.subject, rows, {"fp32": 1e12}, table, display, Budget(0.1, 100))
    reading("over", memorised.subject, rows, {"fp32": 1e12}, table, display, Budget(-1, 1))
    figures, ratios = (list(map(str, table.columns[i].cells)) for i in (1, 2))
    few = sum(len(p.cuts) for p in spaced(windows(rows), 128))
    assert figures[0].startswith(f"{few} windows: 0 differ"), "two batches at least"
    assert re.fullmatch(r"[\d.]+x \([\d.]+ to [\d.]+\)", ratios[0])
    assert figures[1] == "left out"


def test_a_machine_without_bf16_can_be_imitated_on_any_other_and_says_so(tiny: Subject) -> None:
    said = re.fullmatch(r"bf16 products run at ([\d.e+-]+) times the speed of fp32 ones here", imitated(tiny.folder))
    assert said
    assert float(said[1]) < 0.6 or platform.machine() not in ("x86_64", "AMD64")
