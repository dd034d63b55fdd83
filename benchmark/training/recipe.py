"""How to train: the recipe of one training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..common.errors import unknown
from ..common.limits import SCHEDULES


@dataclass(frozen=True)
class Recipe:
    """How to train. `micro_batch` is the largest number of rows per group, rank and forward pass; `batch`es come with the data."""

    lr: float = 1e-3
    steps: int = 100
    schedule: str = "constant"  # one of SCHEDULES
    warmup: float = 0.0  # share of the steps
    final_lr: float = 0.1  # where linear and cosine end, as a share of lr
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    micro_batch: int = 32
    precision: str = "auto"  # bf16 autocast or fp32; auto: whichever is faster here
    deepspeed: str = "zero0"  # a file in configs/deepspeed, or a path
    seed: int = 0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)

    def lr_at(self, step: int) -> float:
        """The learning rate of step `step` (0-based)."""
        warm = self.warmup * self.steps
        if step < warm:
            return self.lr * min(1.0, (step + 1) / warm)
        done = (step - warm) / max(1.0, self.steps - warm)
        if self.schedule == "constant":
            return self.lr
        fall = done if self.schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * done)
        return self.lr * (1 - (1 - self.final_lr) * fall)
