"""Formulas for numbers that are no matched lengths: tries needed to extract, steps needed to relearn, what an attack reverses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


def tries_needed(log_probability: ArrayLike, p: float = 0.5) -> np.ndarray:
    """n_min = ⌈log(1−p) / log(1−p_z)⌉: independent samples until a text of probability p_z came up with chance p.

    Infinite where p_z is 0 (Hayes et al. 2024, arXiv 2410.19482). `log_probability` is log p_z in nats.
    """
    one = np.exp(np.minimum(np.asarray(log_probability, float), 0))
    with np.errstate(divide="ignore", over="ignore"):
        needed = np.ceil(np.log1p(-p) / np.log1p(-one))
    return np.where(one > 0, np.maximum(needed, 1), np.inf)


def steps_to(lengths: Mapping[int, float], goal: float) -> int | None:
    """The first step of a trajectory (step -> tokens) at which at least `goal` tokens come back; None if it never gets there."""
    return next((step for step in sorted(lengths) if lengths[step] >= goal), None)


@dataclass(frozen=True)
class Ratio:
    """A number, or a lower bound of one; infinite where nothing had to be relearned, NaN where nothing can be said."""

    value: float = math.nan
    bound: bool = False  # the true value is greater


def relearn_ratio(mine: Mapping[int, float], twin: Mapping[int, float], goal: float = 32) -> Ratio:
    """Steps that the retrained model needs ÷ steps that the unlearned one needs, to the same mean matched length.

    Above 1 a residue is left. If the retrained model never gets there, its last step gives a lower bound.
    """
    needed, yardstick = steps_to(mine, goal), steps_to(twin, goal)
    if needed is None or not twin or yardstick == 0:
        return Ratio()
    if needed == 0:
        return Ratio(math.inf)
    return Ratio(yardstick / needed) if yardstick is not None else Ratio(max(twin) / needed, True)


def reversal(attacked: float, unlearned: float, held: float, least: float = 1.0) -> float:
    """(attacked − unlearned) / (held − unlearned): the share of the unlearning that an attack undoes.

    NaN unless more than `least` tokens were unlearned, since a share of nothing means nothing.
    """
    return (attacked - unlearned) / (held - unlearned) if held - unlearned > least else math.nan
