"""A trial of a search, made by hand."""

from __future__ import annotations

from typing import Any

from palimpsest.benchmark.running.tune import Trial

DEFAULTS = {"lr": 1e-4, "kind": 1}


def trial(
    number: int = 0, exact: float = 0.0, matched: float = 0.0, damage: float = 0.0, lost: float = 0.0, error: str = "", **drawn: Any
) -> Trial:
    return Trial(number, DEFAULTS | drawn, DEFAULTS | drawn, 100, exact, matched, damage, lost, error)
