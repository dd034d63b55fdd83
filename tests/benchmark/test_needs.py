"""Which stages wait for which: each attack for the shared pass over its own model, under its own name and in its own seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from palimpsest.benchmark.running.needs import needs
from palimpsest.benchmark.running.store import Stage
from tests.benchmark.stages import stage


def asked(name: str, seed: int) -> list[Stage]:
    """The stages of one model from elsewhere, whose hash is the same under every name and in every seed."""
    shared: dict[str, Any] = {"model": "the same", "as": name, "seed": seed}
    return [
        stage(kind="battery", label="tier 0", tier=0, **shared),
        stage(kind="battery", label="tier 1", tier=1, **shared),
        stage(kind="attack", label="quantise", attack="quantise", **shared),
    ]


@pytest.mark.parametrize(
    "groups",
    [[asked("none", 0), asked("", 0)], [asked("", 0), asked("none", 0)], [asked("none", 0), asked("none", 1)]],
    ids=["a copy after the held model", "a copy before the held model", "two seeds"],
)
def test_one_model_under_two_names_or_in_two_seeds_waits_for_its_own_pass(groups: Sequence[list[Stage]]) -> None:
    found = needs([s for group in groups for s in group])
    for first, *later in groups:
        assert found[first.key] == frozenset()
        assert [found[s.key] for s in later] == [{first.key}, {first.key}]
