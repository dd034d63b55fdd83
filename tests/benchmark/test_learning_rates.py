"""What is said of learning rates that were chosen on a narrower model than the run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.commands.shared import rates_line
from palimpsest.benchmark.running import learning_rates
from palimpsest.benchmark.running.learning_rates import WIDTH, by_width, width_of
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.suites.config import load_suite


@pytest.fixture
def run_of(tmp_path: Path, monkeypatch: Any) -> Any:
    def bound(suite: str, *overrides: str, width: int = 2048) -> Run:
        monkeypatch.setattr(learning_rates, "width_of", lambda run: width)
        return Run(load_suite(suite, overrides), Store(tmp_path))

    return bound


def test_the_shipped_models_own_width_is_what_rates_were_chosen_on(tmp_path: Path) -> None:
    run = Run(load_suite("quick"), Store(tmp_path))
    assert width_of(run) == WIDTH
    assert by_width(run) == {}
    assert rates_line(run) == ""


def test_a_wider_model_is_told_every_rate_that_was_left_as_it_was(run_of: Any) -> None:
    run = run_of("quick", "method=npo", "model=there")
    assert by_width(run) == {"injection.lr": 2.5e-4, "methods.npo.lr": 3.75e-5, "attacks.relearn.lr": 3.75e-5}
    assert rates_line(run).endswith("injection.lr=0.00025 methods.npo.lr=3.75e-05 attacks.relearn.lr=3.75e-05")
    mine = run_of("quick", "method=npo", "methods.npo.lr=1e-5", "injection.lr=1e-4", "attack=prefix")
    assert by_width(mine) == {}
    assert by_width(run_of("pocket", "method=npo", "attack=prefix")) == {"injection.lr": 2.5e-4, "methods.npo.lr": 1.59e-6}, "as tuned"


def test_rates_of_adapters_gates_and_narrower_models_belong_to_no_width(run_of: Any) -> None:
    given = ("injection.lr=1e-4", "attack=prefix")
    assert by_width(run_of("quick", "method=npo", "methods.npo.lora.rank=4", *given)) == {}
    assert by_width(run_of("methods", "method=neuron_pruning", *given)) == {}
    assert by_width(run_of("quick", width=96)) == by_width(run_of("quick", width=0)) == {}


OWN = """
from dataclasses import dataclass

from palimpsest.methods.npo import NPO


@dataclass(frozen=True)
class Mine(NPO):
    lr: float = 1e-6
"""


def test_rates_of_a_method_of_ones_own_are_its_own(run_of: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    assert by_width(run_of("quick", f"method={tmp_path / 'mine.py'}:Mine", "injection.lr=1e-4", "attack=prefix")) == {}


@pytest.mark.parametrize("suite", ["real", "real-small", "real-methods", "tofu", "muse", "wmdp", "lume"])
def test_suites_for_wider_models_set_every_rate(suite: str, run_of: Any) -> None:
    assert by_width(run_of(suite)) == {}
