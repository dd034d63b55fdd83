"""Rounding to a few bits: by hand, within half a bin, and the library against its reference; updates that rounding undoes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from palimpsest.benchmark.models.quantisation import round_by_torchao, round_to_nearest, share_undone


def random(outputs: int = 24, inputs: int = 96, seed: int = 0) -> Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


def test_levels_by_hand():
    """A largest magnitude of 15 makes bins of 2: levels at -16, -14, ..., 14."""
    weight = torch.tensor([[15.0, -15.0, 0.9, 1.1, -0.9, 2.9, 3.1, -14.9], [0.0] * 8, [1.5, -1.5, 0.25, 0.15, 0.05, 0.0, 0.31, 0.29]])
    expected = torch.tensor([[14.0, -16.0, 0.0, 2.0, 0.0, 2.0, 4.0, -14.0], [0.0] * 8, [1.4, -1.6, 0.2, 0.2, 0.0, 0.0, 0.4, 0.2]])
    torch.testing.assert_close(round_to_nearest(weight, 4), expected)


def test_each_group_has_bins_of_its_own():
    small, large = random(4, 32), 100 * random(4, 32, 1)
    both = torch.cat([small, large], 1)
    apart = torch.cat([round_to_nearest(small, 4), round_to_nearest(large, 4)], 1)
    torch.testing.assert_close(round_to_nearest(both, 4, 32), apart)
    assert not torch.equal(round_to_nearest(both, 4), apart)


def test_a_group_that_does_not_divide_the_inputs_becomes_the_row():
    weight = random(4, 40)
    assert torch.equal(round_to_nearest(weight, 4, 32), round_to_nearest(weight, 4))
    assert torch.equal(round_by_torchao(weight, 4, 32), round_by_torchao(weight, 4))


@pytest.mark.parametrize(("bits", "group"), [(8, None), (8, 32), (4, None), (4, 32), (4, 16)])
def test_no_error_exceeds_half_a_bin_and_all_levels_are_used(bits: int, group: int | None):
    weight = random(256, 96)
    parts = weight.view(256, -1, group or 96)
    size = 2 * parts.abs().amax(-1, keepdim=True) / (2**bits - 1)
    levels = round_to_nearest(weight, bits, group).view_as(parts) / size
    assert float((levels - parts / size).abs().max()) <= 0.5001
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    if bits == 4:
        assert set(levels.round().flatten().tolist()) == set(range(-8, 8))


@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, None), (4, 32)])
def test_the_library_rounds_as_the_reference_but_for_ties(bits: int, group: int | None):
    weight = random(64, 96)
    ours, theirs = round_to_nearest(weight, bits, group), round_by_torchao(weight, bits, group)
    apart = ~torch.isclose(ours, theirs, rtol=1e-5)
    errors = [(q - weight).abs()[apart] for q in (ours, theirs)]
    torch.testing.assert_close(*errors, atol=1e-5, rtol=1e-4)
    largest = weight.view(64, -1, group or 96).abs().amax(-1, keepdim=True)
    assert bool((weight.view(64, -1, group or 96).abs() == largest).view_as(weight)[apart].all()), "only the largest lie between two levels"


def test_levels_over_a_groups_own_range_are_finer_where_that_is_onesided():
    weight = random().abs()
    both = {symmetric: (round_by_torchao(weight, 4, 32, symmetric) - weight).abs().mean() for symmetric in (True, False)}
    assert float(both[False]) < 0.6 * float(both[True])


def test_rounding_changes_no_weight_in_place_and_keeps_its_type():
    weight = torch.nn.Parameter(random().bfloat16())
    before = weight.detach().clone()
    for found in (round_by_torchao(weight, 4, 32), round_to_nearest(weight, 4, 32)):
        assert (found.dtype, found.shape, found.requires_grad) == (torch.bfloat16, weight.shape, False)
    assert torch.equal(weight, before)


# ---- updates


def held() -> Tensor:
    """Two rows of 32: the first with bins of 2, the second with bins of 0.2."""
    row = torch.zeros(32)
    row[0] = 15.0
    return torch.stack([row, row / 10])


def updated(**changes: tuple[int, int, float]) -> dict[str, Tensor]:
    state = {"w": held(), "v": torch.zeros(32)}
    for row, column, change in changes.values():
        state["w"][row, column] += change
    return state


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({}, 0.0),
        ({"a": (0, 3, 0.9)}, 1.0),  # stays in its bin
        ({"a": (0, 3, 2.0)}, 0.0),  # a whole bin
        ({"a": (0, 3, 1.25)}, 1 - 2.0 / 1.25),  # rounding carries it further
        ({"a": (0, 3, 2.0), "b": (0, 4, 0.9)}, 1 - 4.0 / 4.81),
        ({"a": (0, 3, 0.9), "b": (1, 3, 0.2)}, 1 - 0.04 / 0.85),  # the second row's bins are a tenth
    ],
)
def test_the_share_that_is_undone_by_hand(changes: Any, share: float):
    assert share_undone(updated(), updated(**changes)) == pytest.approx(share, abs=1e-6)


def test_many_small_steps_survive_rounding_together():
    """Each is a tenth of a bin, and a tenth of them cross a boundary."""
    before = torch.rand(256, 32, generator=torch.Generator().manual_seed(2)) * 10 - 5
    before[:, 0] = 15.0
    after = before + torch.where(torch.arange(32) > 0, 0.2, 0.0)
    assert abs(share_undone({"w": before}, {"w": after})) < 0.1


def test_vectors_and_weights_that_are_missing_do_not_count():
    after = updated(a=(0, 3, 0.9)) | {"v": torch.ones(32)}
    assert share_undone(updated(), after) == 1.0
    assert share_undone(updated() | {"x": torch.ones(2, 2)}, after) == 1.0
    assert share_undone(updated(), {"v": torch.ones(32)}) == 0.0


def test_rounding_undoes_an_update_that_stays_within_half_a_bin():
    """From weights that lie on levels, the largest of each group unchanged."""
    parts = random(64, 96).view(64, 3, 32)
    size = 2 * parts.abs().amax(-1, keepdim=True) / 15
    top = parts.abs() == parts.abs().amax(-1, keepdim=True)
    before = torch.where(top, parts, (parts / size).round().clamp(-7, 7) * size)
    nudge = size * 0.98 * (torch.rand(parts.shape, generator=torch.Generator().manual_seed(1)) - 0.5)
    before, after = (w.reshape(64, 96) for w in (before, torch.where(top, before, before + nudge)))
    assert share_undone({"w": before}, {"w": after}) == 1.0
    assert not torch.equal(before, after)
    torch.testing.assert_close(round_to_nearest(after, 4, 32), round_to_nearest(before, 4, 32))
