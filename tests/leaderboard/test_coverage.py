"""The simulation behind the choice of intervals, in small."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from palimpsest.leaderboard import coverage as c

METRICS = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def test_students_t_covers_where_a_bootstrap_of_few_seeds_does_not():
    true, world = c.CASES["lengths, seeds differ (sd 2, of memories 8)"]
    found = c.coverage(true, world, seeds=3, worlds=400)
    assert found["t"] == pytest.approx(0.95, abs=0.035)
    assert max(found["percentile"], found["BCa"]) < 0.91


def test_worlds_have_the_mean_and_the_spread_that_they_are_named_for():
    rng = np.random.default_rng(0)
    drawn = c.shares(0.2, 0.05)(rng, 4000)
    assert set(np.unique(drawn)) == {0, 1}
    assert drawn.mean() == pytest.approx(0.2, abs=0.005)
    within = 0.2 * 0.8 / c.MEMORIES
    assert drawn.mean(axis=1).var() == pytest.approx(0.05**2 + within, rel=0.1)


def test_the_published_table_has_every_case_and_number_of_seeds():
    text = METRICS.read_text("utf-8")
    header = re.search(r"^\| world \|.*$", text, re.MULTILINE)
    assert header
    assert header[0] == f"| world | {' | '.join(f'{n} seeds' for n in c.SEEDS)} |"
    assert all(f"| {name} |" in text for name in c.CASES)
