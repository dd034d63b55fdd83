"""What the fresh-memory audit concludes from numbers alone; test_verification.py runs it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from palimpsest.benchmark.submission.audit import Sides, verdict
from palimpsest.leaderboard.entry_values import Number


def test_a_method_that_knows_the_published_file_is_told() -> None:
    """From made-up numbers: the excess on fresh passages lies far above that on published ones."""
    leaks = {"fresh": Number(20, 15, 25), "published": Number(2, 1, 3)}
    worse = Sides("excess, black-box", "tokens", **leaks)
    assert worse.difference == pytest.approx((18, 18 - (5**2 + 1) ** 0.5, 18 + (5**2 + 1) ** 0.5))
    found = verdict("spy", [worse], replace(worse, fresh=leaks["published"]))
    assert (found.agreed, "does better on the published file" in found.seen) == (False, True)
    assert "may be all of it" not in found.seen
    assert "may be all of it" in verdict("spy", [worse], worse).seen
    assert verdict("fair", [replace(worse, fresh=Number(2.5, 1, 4))], worse).agreed
    assert verdict("few", [replace(worse, fresh=Number(2.5))], worse).agreed is None
