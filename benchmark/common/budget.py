"""What a method may cost and still be ranked."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .limits import NotNegative, hold

ROUNDING = 1e-9  # of a mean over seeds


@dataclass(frozen=True)
class Budget:
    """The most that forgetting may cost, as means over seeds. Belongs to a suite and its track, and is fixed before results are seen."""

    damage: NotNegative = 10.0  # % of the twin's quality, by the suite's yardstick; the tuning rule's line
    collateral: NotNegative = 25.0  # points: hidden keep memories that can no longer be repeated

    def __post_init__(self) -> None:
        hold(self, "budget.")

    def exceeded(self, damage: float, collateral: float) -> tuple[str, ...]:
        """What lies above its budget, in words; what is no finite number was not measured, and so is not known to be within."""
        found = {"damage": (damage, self.damage), "collateral": (collateral, self.collateral)}
        unknown = {name: f"{name} not measured" for name, (x, _) in found.items() if not math.isfinite(x)}
        return tuple(unknown.get(name, name) for name, (x, most) in found.items() if name in unknown or x > most + ROUNDING)

    def __str__(self) -> str:
        return f"damage at most {self.damage:g}%, collateral at most {self.collateral:g} points"
