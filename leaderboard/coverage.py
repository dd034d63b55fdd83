"""How often 95% intervals over seeds hold the truth, on made-up results: `python -m palimpsest.leaderboard.coverage`.

A world has a true mean; each seed has a mean of its own around it, and 64 memories around that. Compared are Student's t over seed
means as the tables use it, and a hierarchical bootstrap (seeds, then memories within them), as percentiles and as BCa.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from scipy import stats

from .bootstrap import resampling_weights
from .statistics import Interval, mean, rate

MEMORIES = 64  # per seed
SEEDS = (2, 3, 6, 12, 24)
WORLDS, RESAMPLES = 1000, 2000
World = Callable[[np.random.Generator, int], np.ndarray]  # (draw, seeds) -> values [seeds, memories]


def shares(true: float, spread: float) -> World:
    """0/1 values; the share of a seed is beta distributed about the true one, with this standard deviation."""
    concentration = true * (1 - true) / spread**2 - 1

    def drawn(rng: np.random.Generator, seeds: int) -> np.ndarray:
        p = rng.beta(true * concentration, (1 - true) * concentration, size=(seeds, 1))
        return (rng.random((seeds, MEMORIES)) < p).astype(float)

    return drawn


def lengths(true: float, spread: float, within: float) -> World:
    """Real values about a seed's own mean, with these standard deviations of seeds and of memories."""
    return lambda rng, seeds: rng.normal(rng.normal(true, spread, size=(seeds, 1)), within, size=(seeds, MEMORIES))


CASES: dict[str, tuple[float, World]] = {
    "lengths, seeds differ (sd 2, of memories 8)": (10.0, lengths(10, 2, 8)),
    "lengths, seeds alike (sd of memories 8)": (10.0, lengths(10, 0, 8)),
    "share 50%, seeds differ (sd 10 points)": (0.5, shares(0.5, 0.1)),
    "share 20%, seeds differ (sd 5 points)": (0.2, shares(0.2, 0.05)),
    "share 3%, seeds differ (sd 2 points)": (0.03, shares(0.03, 0.02)),
}


def bootstraps(totals: np.ndarray, means: np.ndarray) -> dict[str, Interval]:
    """95% intervals from the draws of a mean and the means of seeds: percentiles, and BCa (Efron 1987, JASA 82:171).

    The acceleration of BCa comes from leaving out one seed at a time. Half of the ties count as below, or shares near 0 would look biased.
    """
    centre = means.mean()
    below = np.clip(((totals < centre).mean() + (totals <= centre).mean()) / 2, 1 / len(totals), 1 - 1 / len(totals))
    bias = stats.norm.ppf(below)
    deviation = means - centre  # in proportion to how the mean falls where a seed is left out
    scale = (deviation**2).sum() ** 1.5
    acceleration = (deviation**3).sum() / (6 * scale) if scale > 0 else 0.0
    z = bias + stats.norm.ppf([0.025, 0.975])
    corrected = stats.norm.cdf(bias + z / (1 - acceleration * z))
    a, b, c, d = np.quantile(totals, [0.025, 0.975, *corrected])
    return {"percentile": (a, b), "BCa": (c, d)}


def coverage(true: float, world: World, seeds: int, worlds: int = WORLDS) -> dict[str, float]:
    """Interval -> the share of worlds in which it holds the true mean."""
    rng = np.random.default_rng(seeds)
    drawn = np.stack([world(rng, seeds) for _ in range(worlds)])  # [worlds, seeds, memories]
    totals = resampling_weights([MEMORIES] * seeds, RESAMPLES) @ drawn.reshape(worlds, -1).T
    published = rate if np.isin(drawn, (0, 1)).all() else mean
    hits = {"t": 0, "percentile": 0, "BCa": 0}
    for values, of_draws in zip(drawn, totals.T, strict=True):
        used = published(list(values))
        for name, (low, high) in {"t": (used.low, used.high), **bootstraps(of_draws, values.mean(axis=1))}.items():
            hits[name] += low <= true <= high
    return {name: n / worlds for name, n in hits.items()}


def table(worlds: int = WORLDS) -> str:
    """The coverage of every case as a Markdown table, in %: t / percentile / BCa."""
    lines = [f"| {' | '.join(('world', *(f'{n} seeds' for n in SEEDS)))} |", "|---|" + "--:|" * len(SEEDS)]
    for name, (true, world) in CASES.items():
        found = [coverage(true, world, n, worlds) for n in SEEDS]
        lines.append(f"| {name} | " + " | ".join(" / ".join(f"{100 * x:.0f}" for x in by.values()) for by in found) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(int(sys.argv[1]) if len(sys.argv) > 1 else WORLDS))
