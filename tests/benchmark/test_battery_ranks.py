"""Two processes that share the memories get, each of them, what one process gets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.benchmark.battery_worker import work
from tests.conftest import Memorised
from tests.ranks import ranks


@pytest.fixture(scope="module")
def outcomes(memorised: Memorised, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """ "WORLD-RANK" -> what that rank got."""
    folder = tmp_path_factory.mktemp("ranks")
    for world in (1, 2):
        ranks(world, work, memorised.subject.folder, folder)
    return {f.stem: json.loads(f.read_text()) for f in folder.glob("*.json")}


@pytest.mark.parametrize("what", ["answers", "readings", "cache", "changed", "single"])
def test_every_rank_has_the_whole_outcome_of_one_process(what: str, outcomes: dict[str, Any]) -> None:
    assert outcomes["1-0"][what]
    assert outcomes["2-0"][what] == outcomes["2-1"][what] == outcomes["1-0"][what]


def test_the_rows_are_dealt_and_none_is_asked_twice(outcomes: dict[str, Any]) -> None:
    assert outcomes["2-0"]["facts"]["rows"] == outcomes["1-0"]["facts"]["rows"]


def test_searching_attacks_are_given_a_share_and_answer_for_all(outcomes: dict[str, Any]) -> None:
    alone, shared = outcomes["1-0"]["findings"][1], outcomes["2-0"]["findings"][1]
    assert {f["value"] for f in alone} == {8.0}
    assert {f["value"] for f in shared} == {4.0}
    assert [f["memory"] for f in shared] == [f["memory"] for f in alone]
