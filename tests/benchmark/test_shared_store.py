"""Ranks that do not see one store are refused before anything is made: they would wait for each other for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.common import processes
from palimpsest.benchmark.common.errors import UserError


def play(monkeypatch: pytest.MonkeyPatch, other: Path) -> None:
    """This process is rank 0 of two; the other one has its store elsewhere."""

    def gathered(items: list[Any]) -> list[Any]:
        token = next((f.name for f in (*other.glob(".ranks-*"),)), "")
        return [*items, bool(token)] if isinstance(items[0], bool) else [*items, *items]

    monkeypatch.setattr(processes, "is_alone", lambda: False)
    monkeypatch.setattr(processes, "is_main", lambda: True)
    monkeypatch.setattr(processes, "gathered", gathered)


def test_one_store_is_taken_and_two_are_refused_by_rank(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine, other = tmp_path / "a", tmp_path / "b"
    mine.mkdir()
    other.mkdir()
    play(monkeypatch, mine)
    processes.require_shared(mine)
    play(monkeypatch, other)
    with pytest.raises(UserError, match=f"^Ranks 1 do not see the store of rank 0, {mine}; name one with --store"):
        processes.require_shared(mine)
    assert not [*mine.iterdir(), *other.iterdir()], "nothing is left behind"


def test_a_process_alone_writes_nothing(tmp_path: Path) -> None:
    processes.require_shared(tmp_path / "nowhere")
