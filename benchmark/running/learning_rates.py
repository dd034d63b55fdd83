"""Learning rates for a model that is wider than the one they were chosen on, by the rule of docs/real.md."""

from __future__ import annotations

from ..common.plugins import find
from ..method import Descent
from ..suites.config import InjectionConfig
from .memory import shape_of
from .plan import Run

WIDTH = 256  # of the shipped model `pocket`, on which defaults and tracks were chosen
ATTACKS = ("relearn", "benign_finetuning")  # they train all weights
OTHERS = ("neuron_pruning", "sparse_finetuning")  # methods that train gates or a few weights: their rates belong to no width


def by_width(run: Run) -> dict[str, float]:
    """Field -> what the rule gives for the run's model, of every learning rate that the suite left as it was chosen on `WIDTH`.

    Empty for a model that is no wider.
    """
    share = WIDTH / shape_of(run).width
    return {name: float(f"{lr * share:.3g}") for name, lr in _left(run).items()} if share < 1 else {}


def _left(run: Run) -> dict[str, float]:
    s, found = run.suite, dict[str, float]()
    if not s.held and s.injection.lr == InjectionConfig.lr:
        found["injection.lr"] = s.injection.lr
    for name, (plugin, given) in run.ordinary.items():
        if issubclass(plugin.cls, Descent) and name not in OTHERS and not {"lr", "lora"} & s.methods[name].keys():
            found[f"methods.{name}.lr"] = plugin.make(given).lr
    for name in ATTACKS:
        if name in s.attacks and "lr" not in s.attacks[name]:
            found[f"attacks.{name}.lr"] = find("attack", name).defaults["lr"]
    return found
