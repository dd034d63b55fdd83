"""Hashes of models: over every weight, the same for the same, and taken once."""

from __future__ import annotations

from pathlib import Path

import pytest

from palimpsest.benchmark.models.subject import Subject, open_subject
from tests.benchmark.model_folders import configured

pytestmark = pytest.mark.usefixtures("quiet_library")


def test_hashes_of_shipped_models_stay_what_they_were() -> None:
    """They are in the key of every stage of every user."""
    assert {name: open_subject(name).hash for name in ("pocket", "pocket-small")} == {
        "pocket": "78357d305733e880",
        "pocket-small": "b4de4cb8aff4568d",
    }


def test_unsaved_weights_have_a_hash_of_their_own(llama: Path) -> None:
    subject, state = Subject(llama), Subject(llama).fresh().state_dict()
    same, other = subject.with_state(state), subject.with_state(state | {"model.norm.weight": state["model.norm.weight"] + 1})
    assert len({subject.hash, same.hash, other.hash}) == 3
    assert subject.with_state({k: v.clone() for k, v in state.items()}).hash == same.hash


def test_a_file_is_hashed_once_until_it_changes(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Subject(llama).hash
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", lambda *_: pytest.fail("read again"))
        assert Subject(llama).hash == before
    configured(llama, added=1)
    assert Subject(llama).hash != before
