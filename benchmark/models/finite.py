"""Weights that are no numbers: found where a model is opened, where training ended, and before anything is saved."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from ..common.errors import UserError, listed


def require_finite(weights: Iterable[tuple[str, Tensor]], where: str, advice: str) -> None:
    """An error that names the tensors that hold NaN or infinity; integers and masks cannot."""
    if bad := [name for name, t in weights if t.is_floating_point() and not is_finite(t)]:
        raise UserError(f"{where}: {listed(bad)} {'is' if len(bad) == 1 else 'are'} not finite (NaN or infinity). {advice}")


def is_finite(values: Tensor) -> bool:
    """Whether all are: one pass without a copy, since NaN and infinity survive in a sum; a sum that overflows is looked into."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())
