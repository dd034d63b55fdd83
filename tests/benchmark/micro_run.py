"""The micro suite of the fixtures `suite` and `whole`: its methods, its stages, and the same run in a new process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from palimpsest.benchmark.running.plan import Run

METHODS = ("none", "retrain", "gradient_ascent", "npo")
STAGES = {"quality": 6, "held": 1, "twin": 1, "method": 3, "battery": 10, "checks": 5, "excerpts": 1}


def again(run: Run, **changes: Any) -> Run:
    """A new process: the same store, nothing remembered."""
    return Run(replace(run.suite, **changes), run.store)
