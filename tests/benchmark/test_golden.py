"""The records of a tiny fixed run are what they were: what stands behind pinning code anew without raising a version."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.benchmark.golden import differences, golden, run


def test_the_records_of_a_tiny_fixed_run_are_what_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path / "cache"))
    found, _ = run(tmp_path)
    wrong = differences(found, golden())
    assert not wrong, f"{wrong}: raise the version of what changed, and write them anew: `python -m tests.benchmark.golden --write`"


def test_the_fixed_run_has_something_to_tell() -> None:
    lengths = golden()["lengths"]
    assert lengths["none forget prefix"] > 30
    assert lengths["twin forget prefix"] < 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda g: g.update(asked="other"), "which memories were asked what"),
        (lambda g: g["lengths"].update({"none forget prefix": 1.0}), "none forget prefix: "),
        (lambda g: g["lengths"].pop("none forget prefix"), "none forget prefix: in only one of them"),
        (lambda g: g["quality"].update({k: 2 * v for k, v in g["quality"].items()}), "bits_per_byte: "),
    ],
)
def test_what_differs_is_named(change: Any, said: str) -> None:
    other = copy.deepcopy(golden())
    change(other)
    assert differences(golden(), golden()) == []
    assert any(said in d for d in differences(golden(), other))
