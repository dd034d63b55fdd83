"""Fair tuning: one rule for every method, a search space with its defaults in it, and proposals that learn from the rule."""

from __future__ import annotations

import math
import random

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.plugins import find, names
from palimpsest.benchmark.running import tune
from palimpsest.benchmark.running.tune import BUDGET, LOST, propose, rule
from palimpsest.benchmark.suites.space import Range
from tests.benchmark.trials import trial

SEARCHED = [n for n in names("method") if getattr(find("method", n).cls, "search", {})]
SPACE = {"lr": FloatDistribution(1e-5, 1e-3, log=True), "kind": CategoricalDistribution((1, 2, 3))}

# ---- the rule


def test_the_rule_takes_the_lowest_exact_rate_within_both_budgets_then_the_shortest_match_then_the_least_damage() -> None:
    order = [
        trial(exact=0, matched=3, damage=0.04),
        trial(exact=0, matched=3, damage=0.05),
        trial(exact=0, matched=5, damage=-0.01),
        trial(exact=0.5, matched=1, damage=0),
        trial(exact=1, matched=64, damage=BUDGET, lost=LOST),
        trial(exact=1, matched=64, damage=BUDGET + 1e-6),  # none beyond a budget is better than one within
        trial(exact=0, matched=0, damage=0, lost=2 * LOST),
        trial(exact=0, matched=0, damage=2.5 * BUDGET, lost=LOST),
        trial(exact=0, matched=0, damage=3, lost=1),
        trial(exact=0, matched=0, damage=0, error="the loss is not finite"),
    ]
    shuffled = random.Random(0).sample(order, len(order))
    assert sorted(shuffled, key=rule) == order
    notes = [line["note"] for line in tune.table(order)]
    assert notes == ["chosen", "", "", "", "", *["over budget"] * 4, "failed"]
    assert [line["note"] for line in tune.table(order[5:])] == [*["over budget"] * 4, "failed"]


# ---- what is tried


@pytest.mark.parametrize("name", SEARCHED)
def test_a_shipped_search_space_holds_the_defaults_and_every_end_makes_a_method(name: str) -> None:
    plugin = find("method", name)
    for field, values in plugin.cls.search.items():  # type: ignore[attr-defined]
        default, ends = plugin.defaults[field], (values.low, values.high) if isinstance(values, Range) else values
        assert ends[0] <= default <= ends[-1] if isinstance(values, Range) else default in ends
        for value in ends:
            plugin.make({field: value})
    assert "lr" in plugin.cls.search  # type: ignore[attr-defined]


def test_a_range_that_is_none_is_refused() -> None:
    for wrong in ((1.0, 1.0), (2.0, 1.0), (0.0, 1.0)):
        with pytest.raises(UserError, match="expected low below high"):
            Range(*wrong)
    assert Range(0.0, 1.0, log=False).low == 0


def test_a_proposal_depends_on_the_seed_and_the_earlier_trials_alone() -> None:
    before = [trial(n, exact=1 - n / 4, lr=10.0 ** -(n + 2)) for n in range(1, 4)]
    first = propose(SPACE, before, 0)
    assert first == propose(SPACE, before, 0)
    assert first != propose(SPACE, before, 1)
    assert first != propose(SPACE, before[:2], 0)
    for seed in range(20):
        drawn = propose(SPACE, before, seed)
        assert 1e-5 <= drawn["lr"] <= 1e-3
        assert drawn["lr"] == float(f"{drawn['lr']:.3g}")
        assert drawn["kind"] in (1, 2, 3)


def test_the_sampler_learns_from_the_places_under_the_rule_also_of_trials_over_budget_and_failed_ones() -> None:
    """Only 2 is any good; 1 costs too much and 3 fails."""
    outcome = {1: {"damage": 1.0}, 2: {}, 3: {"error": "failed", "exact": math.nan}}
    before = [trial(n, kind=1 + n % 3, lr=1e-4, **outcome[1 + n % 3]) for n in range(30)]
    drawn = [propose(SPACE, before, seed)["kind"] for seed in range(40)]
    assert drawn.count(2) > 30
