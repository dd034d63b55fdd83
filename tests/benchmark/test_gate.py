"""The gate: where bf16 or a batch could turn a decision, it is made in fp32 and with the row alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import Probe
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.forward import Forward
from palimpsest.benchmark.reading.margins import SAFETY, Gate
from palimpsest.benchmark.reading.reader import Reader
from tests.benchmark.windows import counted_forwards, every_window, fp32
from tests.conftest import Memorised


@torch.no_grad()
def margins(subject: Subject, rows: Sequence[tuple[int, ...]], low: bool) -> np.ndarray:
    """Margins at all positions of some rows, each row alone: the library's forward pass in fp32, or the reader's in bf16."""
    forward, found = Forward(subject), []
    for row in rows:
        with torch.autocast(device().type, torch.bfloat16, enabled=low):
            states = forward.states([row], (None,), low, low)[None][0, : len(row) - 1]
            found.append(forward.margins(states, torch.tensor(row[1:], device=device()), low, doubt=1.0).cpu().numpy())
    return np.concatenate(found)


@pytest.fixture(scope="module")
def gated(memorised: Memorised, blurred: Subject) -> tuple[list[Probe], Reader, list[tuple[int, ...]]]:
    """Every window of four memories, a reader in bf16 that has read them, and what it said."""
    probes = [p for m in memorised.memories[:4] for p in every_window(m)]
    reader = Reader(blurred, "bf16")
    return probes, reader, reader.read(probes)


def test_bf16_with_its_gate_gives_the_same_integers_as_fp32(gated: Any, blurred: Subject) -> None:
    probes, reader, said = gated
    reference, open_ = fp32(blurred).read(probes), Reader(blurred, "bf16", gate=0.0)
    assert said == reference
    assert 0 < reader.rows_again < reader.rows_asked
    assert reader.tokens_again < reader.tokens / 2, "rows are asked again up to the last close position only"
    assert open_.read(probes) != reference, "without the gate bf16 flips some decision here; if not, the gate is not tried"
    assert open_.rows_again < reader.rows_again


def test_the_gate_is_as_wide_as_the_errors_of_bf16_ask_for(gated: Any, blurred: Subject) -> None:
    probes, reader, _ = gated
    rows = [p.prompt + p.target for p in probes[::5]]
    exact, rough = (margins(blurred, rows, low) for low in (False, True))
    near = np.abs(rough) < 1
    error = np.sqrt(np.square(exact - rough)[near].mean())
    assert reader.gates.low.pairs >= 64
    assert 0.7 < reader.gates.low.width / (SAFETY * error) < 1.4
    flipped = (exact > 0) != (rough > 0)
    assert flipped.sum() > 3
    assert np.abs(rough[flipped]).max() < reader.gates.low.width


def test_fp32_never_asks_a_row_twice(memorised: Memorised, blurred: Subject) -> None:
    reader = fp32(blurred)
    reader.read(every_window(memorised.memories[0]))
    assert reader.rows_asked == 152
    assert reader.rows_again < 5, "only for near-ties of fp32 itself"


def test_a_run_that_only_fp32_goes_on_with_is_followed_to_its_end(memorised: Memorised, blurred: Subject, monkeypatch: Any) -> None:
    """bf16 that errs at random by more than the model's margins: every near decision must come from fp32."""
    probes = every_window(memorised.memories[0])[::4]
    reference = fp32(blurred).read(probes)
    true, random = Forward.margins, torch.Generator().manual_seed(0)

    def noisy(self: Forward, states: torch.Tensor, truth: torch.Tensor, low: bool, doubt: float = 0.0) -> torch.Tensor:
        exact = true(self, states, truth, low, doubt)
        return exact + low * (2 * torch.rand(exact.shape, generator=random) - 1).to(exact.device)

    monkeypatch.setattr(Forward, "margins", noisy)
    assert Reader(blurred, "bf16", gate=1.0).read(probes) == reference
    assert Reader(blurred, "bf16", gate=0.0).read(probes) != reference
    learnt = Reader(blurred, "bf16")
    assert learnt.read(probes) == reference
    assert learnt.gates.low.width == pytest.approx(SAFETY / 3**0.5, rel=0.2), "the deviation of such errors is 1 / sqrt 3"


def test_where_bf16_turns_clear_decisions_fp32_serves_for_everything(memorised: Memorised, blurred: Subject, monkeypatch: Any) -> None:
    """As behind a router: most errors are small, and a few turn what was never close."""
    probes = every_window(memorised.memories[0])[::4]
    reference = fp32(blurred).read(probes)
    true, random = Forward.margins, torch.Generator().manual_seed(0)

    def turning(self: Forward, states: torch.Tensor, truth: torch.Tensor, low: bool, doubt: float = 0.0) -> torch.Tensor:
        exact = true(self, states, truth, low, doubt)
        return torch.where(((torch.rand(exact.shape, generator=random) < 0.03) & low).to(exact.device), -exact, exact)

    plain = Reader(blurred, "bf16")
    assert (plain.read(probes), plain.used) == (reference, "bf16")
    monkeypatch.setattr(Forward, "margins", turning)
    careful = Reader(blurred, "bf16")
    assert (careful.read(probes), careful.used) == (reference, "fp32")
    assert Reader(blurred, "bf16", gate=0.5).read(probes) != reference, "a fixed gate is taken as it is"


@pytest.mark.parametrize(
    ("low", "full", "holds"),
    [
        ([0.1, -0.1, 5.0, -7.0], [0.15, -0.1, 5.2, -7.0], True),
        ([0.1, -0.1, 5.0, -7.0], [-0.02, -0.1, 5.2, -7.0], True),
        ([0.1, -0.1, 5.0, -7.0], [0.15, -0.1, -5.0, -7.0], False),
        ([], [], True),
    ],
    ids=["nothing turns", "what was close turns", "what was clear turns", "nothing to try"],
)
def test_a_gate_holds_where_only_close_decisions_turn(low: list[float], full: list[float], holds: bool) -> None:
    gate = Gate()
    gate.try_out(np.array(low), np.array(full))
    assert gate.holds == holds


def test_near_ties_of_fp32_are_decided_with_the_row_alone(memorised: Memorised, blurred: Subject, monkeypatch: Any) -> None:
    probes = every_window(memorised.memories[0])[::12]
    reference = fp32(blurred).read(probes)
    monkeypatch.setattr("palimpsest.benchmark.reading.margins.TIE", 0.5)
    with counted_forwards(blurred) as shapes:
        assert fp32(blurred).read(probes) == reference
    assert shapes[0][0] > 1
    assert len(shapes) > 5
    rows = [n for n, _ in shapes]
    assert set(rows[rows.index(1) :]) == {1}, "at first in batches, then near-ties one by one"
