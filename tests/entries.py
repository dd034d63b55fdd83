"""Made-up entries of a leaderboard, from made-up Results, for tests of what reads entries."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from palimpsest.benchmark.common.types import Results, TrainingEvaluation
from palimpsest.leaderboard.entry import About, Entry, Hashes, Machine, Point, Verified, Versions
from palimpsest.leaderboard.entry_of import entry_of
from palimpsest.leaderboard.entry_values import Number
from palimpsest.leaderboard.tables import main_table
from tests.synthetic import battery


def about(name: str = "weak", **changes: Any) -> About:
    """What an author says; `changes` replace fields."""
    known: dict[str, Any] = {
        "track": "made-up", "paper": "https://example.org/paper", "code": "https://example.org/code", "date": "2026-11-26",
        "config": {"name": "made-up", "model": "tiny", "seeds": [0, 1], "per_role": 16},
        "hashes": Hashes("ba5e" * 4, "c0" * 8, "3e" * 8, "70" * 8, "50" * 8, {"0": "m0" * 8, "1": "m1" * 8}),
        "versions": Versions("0.1.0", "c" * 40, False, {"held": 1, "method": 1}, {"python": "3.12.1", "torch": "2.13.0"}),
        "machine": Machine("cpu", "fp32", 2), "saw": ("forget", "retain"), "tuned_on": "validation memories", "curve": curve(),
    }  # fmt: skip
    return About(name=name, **known | changes)


def curve(points: int = 3) -> tuple[Point, ...]:
    """The stronger, the less leaks and the more is lost."""

    def around(x: float) -> Number:
        return Number(x, x - 0.5, x + 0.5, (x, x), 32)

    strengths = [(0.5 * 2**i, i / max(1, points - 1)) for i in range(points)]
    return tuple(
        Point(
            "lr",
            lr,
            around(40 - 30 * s),
            Number(0.8 - 0.7 * s, 0.7 - 0.7 * s, 0.9 - 0.7 * s, (0.8 - 0.7 * s,) * 2, 32),
            around(10 * s),
            around(90 * s),
        )
        for lr, s in strengths
    )


@cache
def made_results() -> Results:
    """Every kind of attack on two seeds, and evaluations of `weak` while it trained."""
    told = [TrainingEvaluation("weak", seed, step, 1 - step / 8, 2.0 + step / 10) for seed in (0, 1) for step in (0, 4, 8)]
    return replace(battery(), evaluations=told)


@cache
def _made(method: str) -> Entry:
    found = made_results()
    return entry_of(found, main_table(found), method, about(method))


def entry(method: str = "weak", verified: str = "", **changes: Any) -> Entry:
    """The entry of `none`, `weak`, `strong` or `retrain`; `verified` is a level at which everything agreed; `changes` replace fields."""
    made = _made(method)
    if verified:
        changes["verified"] = Verified(verified, "2026-11-27", "a reader", "b" * 64, made.claimed)
    return replace(made, **changes)
