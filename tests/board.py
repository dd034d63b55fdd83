"""A made-up track for tests of the board: methods of every strength, calibrated, attacked at all four levels."""

from __future__ import annotations

import random
from typing import Any

import pytest

from palimpsest.leaderboard.board import charts, site
from palimpsest.leaderboard.entry import SCHEMA, Entry, Evaluation, Hashes, Memories, OfSeed, Point, Spent, Text, Verified
from palimpsest.leaderboard.entry_values import Attack, CostOf, Flag, Leak, Number, Relearned, Relearning, Values

from .entries import about

ATTACKS = {
    "prefix": "black-box", "shifted_window": "black-box", "paraphrase": "black-box", "beam_search": "grey-box", "logit_lens": "white-box",
    "gcg": "white-box", "quantise": "weights", "relearn": "weights", "soft_prompt": "white-box",
}  # fmt: skip
LEVELS = ("black-box", "grey-box", "white-box", "weights")
REACH = {"black-box": 1.0, "grey-box": 1.1, "white-box": 1.2, "weights": 1.6}  # a stronger attacker reads further
THRESHOLD = 10.0  # tokens
MEMORIES, SEEDS = 32, (0, 1, 2)
PEERS = {
    "scalpel": (0.1, 4),
    "npo": (0.14, 20),
    "grad_diff": (0.15, 22),
    "rmu": (0.4, 12),
    "hammer": (0.02, 98),
    "none": (1.0, 0),
    "retrain": (0.0, 3),
}


def track_of(peers: dict[str, tuple[float, float]] | None = None, track: str = "made-up") -> list[Entry]:
    """An entry for each method: the share of memories that it gives away, and its collateral in points."""
    return [made(name, *numbers, track=track) for name, numbers in (peers or PEERS).items()]


def made(name: str, leaks: float, collateral: float, damage: float = 1.0, verified: str = "", **changes: Any) -> Entry:
    """One entry whose numbers agree with its memories. The easiest memories are lost by all methods, so that pairs can be told apart."""
    seeds = tuple(_memories(name, leaks, seed) for seed in SEEDS)
    values = _values(seeds, around(damage, 0.4), around(collateral, 3.0))
    told: dict[str, Any] = vars(about(name)) | {
        "schema": SCHEMA, "method": name, "doc": "", "seeds": SEEDS, "claimed": values,
        "memories": Memories(ATTACKS, ("soft_prompt",), {v: dict.fromkeys(_up_to(v), THRESHOLD) for v in LEVELS}, seeds),
        "hashes": Hashes("ba5e" * 4, "c0" * 8, "3e" * 8, "70" * 8, "50" * 8, {str(s): f"{s}m" * 8 for s in SEEDS}),
        "cost": tuple(Spent(s, 40.0 + s, 123456, 2.5e12, 800.0) for s in SEEDS),
        "trajectory": tuple(Evaluation(s, step, max(0.0, 1 - step / (8 - s)), 3 + step / 50) for s in SEEDS for step in (0, 2, 4, 8)),
        "curve": tuple(_point(i, leaks, collateral) for i in range(5)),
        "excerpts": (said(name),),
        "verified": Verified(verified, "2026-11-27", "a reader", "b" * 64, values) if verified else None,
    }  # fmt: skip
    return Entry(**told | changes)


def only_draw(patch: pytest.MonkeyPatch, *names: str) -> None:
    """Leave figures out, which take a while, but for those on the pages of these entries."""
    page = site._row

    def undrawn(track: Any, row: Any) -> str:
        with pytest.MonkeyPatch.context() as within:
            for figure in ("operating", "survived", "bars", "trained", "relearned"):
                if row.entry.name not in names:
                    within.setattr(charts, figure, lambda *_: "")
            return page(track, row)

    patch.setattr(site, "_row", undrawn)
    if not names:
        patch.setattr(charts, "overview", lambda *_: "")


def said(name: str) -> Text:
    """One memory read back by four models."""
    truth = " the ferry left at seven, and nobody on the pier waved until it had passed the second buoy"
    after = " the ferry left at noon with two crates of oranges, which nobody had ordered"
    return Text(
        "memory-000", "forget", 0, "When the lamps went out", truth, {"base": " was the", "none": truth, "twin": " again", name: after}
    )


def around(x: float, half: float) -> Number:
    return Number(x, x - half, x + half, (x, x, x), MEMORIES * len(SEEDS))


def _up_to(level: str) -> list[str]:
    return [a for a, other in ATTACKS.items() if LEVELS.index(other) <= LEVELS.index(level) and a != "soft_prompt"]


def _memories(name: str, leaks: float, seed: int) -> OfSeed:
    draw, twin = random.Random(f"{name} {seed}"), random.Random(seed)
    ids = tuple(f"memory-{3 * i + seed:03d}" for i in range(MEMORIES))

    def length(i: int, attack: str) -> int:
        share = min(1.0, leaks * REACH[ATTACKS[attack]]) if attack != "soft_prompt" else 1.0
        return draw.choice((16, 32, 48, 64, 64)) if i < round(share * MEMORIES) else draw.randrange(6)

    lengths = {a: tuple(length(i, a) for i in range(MEMORIES)) for a in ATTACKS}
    floor = {level: tuple(twin.randrange(8) for _ in ids) for level in LEVELS}
    whole = (64,) * MEMORIES
    return OfSeed(seed, ids, lengths, tuple(min(n, 9) for n in lengths["prefix"]), whole, floor)


def _values(seeds: tuple[OfSeed, ...], damage: Number, collateral: Number) -> Values:
    of_forget = [n or 0 for of in seeds for n in of.opening]
    return Values(
        exact=around(0.0, 0.0),
        opening=around(sum(of_forget) / len(of_forget), 0.5),
        worst=around(0.1, 0.05),
        worst_length=around(12.0, 2.0),
        verbatim=Number(None, why="no attack asks with windows"),
        leaks=tuple(_leak(seeds, level) for level in LEVELS),
        damage=damage,
        damage_of="bits per byte",
        tasks=(),
        collateral=collateral,
        kept=around(0.9, 0.02),
        attacks=tuple(_attack(seeds, a, level) for a, level in ATTACKS.items()),
        flags=(Flag("g", "wrapped", (0, 1), {"0": 12.5, "1": 6.25}), Flag("†", "collapsed", (), {"0": 0.5})),
        costs=(CostOf("seconds", 41.0, 0.4),),
        learnt=True,
        relearned=(
            Relearned("relearn", "", tuple(Relearning(n, around(12.0 + n, 3.0), around(4.0 + n / 2, 2.0)) for n in (0, 5, 10, 20))),
        ),
    )


def _leak(seeds: tuple[OfSeed, ...], level: str) -> Leak:
    shares = [sum(max(of.lengths[a][i] or 0 for a in _up_to(level)) > THRESHOLD for i in range(MEMORIES)) / MEMORIES for of in seeds]
    mean = sum(shares) / len(shares)
    number = Number(mean, max(0.0, mean - 0.06), min(1.0, mean + 0.06), tuple(shares), MEMORIES * len(seeds))
    return Leak(level, number, number, around(0.0, 0.02), around(64 * mean, 4.0), 0.001)


def _attack(seeds: tuple[OfSeed, ...], attack: str, level: str) -> Attack:
    means = [sum(n or 0 for n in of.lengths[attack]) / MEMORIES for of in seeds]
    matched = around(sum(means) / len(means), 2.0)
    return Attack(attack, level, matched, matched, 0.01, around(0.1, 0.05), 0.02, attack == "soft_prompt")


def _point(i: int, leaks: float, collateral: float) -> Point:
    at = (i + 1) / 3
    leak = max(0.0, 0.9 - (0.9 - leaks) * at)
    lost = min(100.0, collateral * at)
    return Point(
        "lr", 1e-5 * 2**i, around(64 * leak, 3), Number(leak, max(0, leak - 0.07), leak + 0.07), around(at * 2, 0.5), around(lost, 4)
    )
