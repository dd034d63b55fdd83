"""Weights rounded to a few bits, as ordinary weights again: by torchao, and by plain round-to-nearest as its reference.

A group is a run of `group` weights of one output; all of it shares one bin (the distance of two levels). Matrices are
[outputs, inputs]. Where `group` does not divide the inputs, and where it is None, a whole row is one group.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def round_to_nearest(weight: Tensor, bits: int, group: int | None = None) -> Tensor:
    """Each weight [O, I] at the nearest of 2^bits levels that lie symmetrically around 0; no error exceeds half a bin.

    The largest magnitude of a group stands half a bin beyond the last positive level, so that all 2^bits levels are used.
    """
    parts = _grouped(weight, group)
    size = bins(parts, bits)
    levels = (parts / size).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return (levels * size).view_as(weight)


@torch.no_grad()
def round_by_torchao(weight: Tensor, bits: int, group: int | None = None, symmetric: bool = True) -> Tensor:
    """The same [O, I] by torchao's weight-only quantisation; if not symmetric, the levels span a group's own range."""
    from torchao.quantization import IntxWeightOnlyConfig, MappingType, PerAxis, PerGroup, quantize_

    size = _group_size(weight, group)
    config = IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, f"int{bits}"),
        granularity=PerAxis(0) if size == weight.shape[1] else PerGroup(size),
        mapping_type=MappingType.SYMMETRIC if symmetric else MappingType.ASYMMETRIC,
    )
    layer = nn.Linear(*weight.T.shape, bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach().float().clone(), requires_grad=False)
    quantize_(layer, config)
    return layer.weight.dequantize().to(weight.dtype)  # pyright: ignore[reportCallIssue]


def bins(parts: Tensor, bits: int) -> Tensor:
    """The bin [..., 1] of each group [..., g] for symmetric levels: twice the largest magnitude over 2^bits - 1."""
    size = 2 * parts.abs().amax(-1, keepdim=True) / (2**bits - 1)
    return size.clamp_min(torch.finfo(parts.dtype).smallest_normal)


@torch.no_grad()
def share_undone(before: Mapping[str, Tensor], after: Mapping[str, Tensor], group: int | None = 32) -> float:
    """How much of an update rounding to int4 takes back: 1 - <Q(after) - Q(before), u> / <u, u> for the update u of some matrices.

    1 if no weight leaves its bin, as after an update made for that (Zhang et al. 2024, arXiv 2410.16454); 0 if rounded weights
    have moved as far along u as the weights themselves. An ordinary update is far smaller than a bin and yet survives: of many
    weights that move by a tenth of a bin, a tenth cross a boundary. 0 if nothing changed.
    """
    moved = kept = 0.0
    for name, old in before.items():
        if old.ndim == 2 and name in after:
            new, old = after[name].float(), old.float()
            update = (new - old).double()
            moved += float(update.square().sum())
            kept += float((update * (round_to_nearest(new, 4, group) - round_to_nearest(old, 4, group)).double()).sum())
    return 1 - kept / moved if moved else 0.0


def _group_size(weight: Tensor, group: int | None) -> int:
    inputs = weight.shape[1]
    return inputs if group is None or inputs % group else group


def _grouped(weight: Tensor, group: int | None) -> Tensor:
    """[O, I] as [O, groups, g]."""
    return weight.reshape(len(weight), -1, _group_size(weight, group))
