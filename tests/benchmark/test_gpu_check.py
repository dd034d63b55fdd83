"""`make gpu-check` tells what is broken, keeps its time, and is safe where there is no GPU."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from rich.table import Table

from palimpsest.benchmark.bench import gpu_check
from palimpsest.benchmark.bench.gpu_check import OverError, checks, exact, fits, within
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.models.subject import Subject


def test_it_sees_that_training_repeats_and_resumes_to_the_same_bits_and_where_it_does_not(
    tiny: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checks(tiny, "fp32", tmp_path / "a") == "again: the same bits, resumed: the same bits"
    monkeypatch.setattr("palimpsest.benchmark.training.resume.Checkpoint._restore", lambda *_: None)  # Adam begins anew
    assert checks(tiny, "fp32", tmp_path / "b") == "again: the same bits, resumed: OTHER WEIGHTS"


def test_a_product_in_less_than_fp32_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert exact(64).endswith(": fp32")
    draw = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *size, **given: _Rough(draw(*size, **given)))
    assert exact(64).endswith(": NOT fp32")


class _Rough(torch.Tensor):
    """Multiplies as tensor cores do that are told to take tf32 for fp32."""

    def __matmul__(self, other: torch.Tensor) -> torch.Tensor:
        if self.dtype == torch.float64:
            return self.as_subclass(torch.Tensor) @ other.as_subclass(torch.Tensor)
        return (self.as_subclass(torch.Tensor).bfloat16() @ other.as_subclass(torch.Tensor).bfloat16()).float()


def test_it_ends_in_time_whatever_goes_on_and_still_prints_its_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OverError), within(1):
        time.sleep(5)

    def long(table: Table, *_: object) -> None:
        table.add_row("a part", "a figure", "", "")
        time.sleep(5)

    monkeypatch.setattr(gpu_check, "parts", long)
    gpu_check.main(1)
    said = capsys.readouterr().out
    assert "a figure" in said
    assert "1 s were over" in said
    assert ("No GPU here" in said) == (device().type == "cpu")


def test_what_failed_is_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "parts", lambda table, *_: table.add_row("training", "again: OTHER WEIGHTS", "", ""))
    with pytest.raises(SystemExit) as end:
        gpu_check.main(9)
    assert end.value.code == 1


@pytest.mark.skipif(device().type != "cpu", reason="asks what a CPU is asked")
def test_a_cpu_is_asked_for_tiny_shapes_alone() -> None:
    assert all(fits(shape) for shape in gpu_check.SMALL.values())
    assert max(width for width, _, _ in gpu_check.SMALL.values()) <= 64
