"""A verifier holds every model to the same questions, and knows that of several windows only the best is on record."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from palimpsest.benchmark.common.types import Record
from palimpsest.benchmark.running.model import Model
from palimpsest.benchmark.submission import consistency
from tests.synthetic import record


def faults(monkeypatch: pytest.MonkeyPatch, of_method: Record, of_twin: Record) -> list[str]:
    models = {"npo": Model("npo", 0, "a"), "twin": Model("twin", 0, "b")}
    records = {"npo": [of_method], "twin": [of_twin]}
    monkeypatch.setattr(consistency, "models_of", lambda row: list(models.values()))
    monkeypatch.setattr(consistency, "records_of", lambda row, model: records[model.name])
    row: Any = SimpleNamespace(method="npo", who=SimpleNamespace(attacks=[]))
    return consistency._questions(row)


def test_another_window_of_one_variant_is_no_other_question(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = record("npo", "a", 12, attack="shifted_window", variant="k8", asks="window", start=3, offset=11, horizon=64)
    late = replace(mine, method="twin", start=120, offset=128, horizon=32, prompt="near the end")
    assert faults(monkeypatch, mine, late) == []
    assert faults(monkeypatch, mine, replace(late, variant="k16")) == [
        "shifted_window asks npo about a (seed 0) with other questions than none and twin"
    ]


@pytest.mark.parametrize("change", [{"offset": 21}, {"horizon": 32}, {"prompt": "an easier opening"}])
def test_the_exact_opening_is_the_same_for_all(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mine = record("npo", "a", 12, asks="exact", variant="opening", start=0, offset=20, horizon=64, prompt="the opening")
    twin = replace(mine, method="twin")
    assert faults(monkeypatch, mine, twin) == []
    assert len(faults(monkeypatch, replace(mine, **change), twin)) == 1
