"""Learning rates for a model that is wider than the one they were chosen on, by the rule of docs/real.md."""

from __future__ import annotations

from ..common.plugins import find, shipped
from ..method import Descent
from ..suites.config import InjectionConfig
from ..suites.tracks import tuned
from .plan import Run

WIDTH = 256  # of the shipped model `pocket`, on which defaults and shipped tracks were chosen
TRACKS = ("", "pocket", "pocket-rule-1", "quick")  # the shipped ones; of another nobody here knows on which model it was tuned
ATTACKS = ("relearn", "benign_finetuning")  # they train all weights
OTHERS = ("neuron_pruning", "sparse_finetuning")  # methods that train gates or a few weights: their rates belong to no width


def width_of(run: Run) -> int:
    """The width of the run's model, from its configuration; 0 where that names none."""
    return getattr(run.base.configs[0].get_text_config(), "hidden_size", None) or 0


def by_width(run: Run) -> dict[str, float]:
    """Field -> what the rule gives for the run's model, of every shipped learning rate that the suite left as it was chosen on `WIDTH`.

    Empty for a model that is no wider.
    """
    width = width_of(run)
    return {name: float(f"{lr * WIDTH / width:.3g}") for name, lr in _left(run).items()} if width > WIDTH else {}


def _left(run: Run) -> dict[str, float]:
    s, found = run.suite, dict[str, float]()
    if not s.held and s.injection.lr == InjectionConfig.lr:
        found["injection.lr"] = s.injection.lr
    for name, (plugin, given) in run.ordinary.items():
        method, chosen = plugin.make(given), s.methods[name].keys() | (tuned(s.track).get(name, {}).keys() if s.track not in TRACKS else ())
        if isinstance(method, Descent) and name in shipped("method") and name not in OTHERS and not method.lora and "lr" not in chosen:
            found[f"methods.{name}.lr"] = method.lr
    for name in ATTACKS:
        if name in s.attacks and "lr" not in s.attacks[name]:
            found[f"attacks.{name}.lr"] = find("attack", name).defaults["lr"]
    return found
