"""A frozen track: its record is never changed, names what a row was made from, and keeps other rows from the board."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from palimpsest.benchmark.cli import app
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.frozen import Frozen, MadeFrom, frozen, frozen_from
from palimpsest.benchmark.suites import config, tracks
from palimpsest.benchmark.suites.config import Suite, load_suite
from palimpsest.benchmark.suites.frozen import differences, drifted, freeze, plain_config, record_of, records, refusals, suite_of
from palimpsest.leaderboard.board.shelf import shelf
from palimpsest.leaderboard.board.site import beside, site
from palimpsest.leaderboard.entry import Entry, Versions

from ..board import made, only_draw

COMMIT = "c" * 40
ENTRIES = Path(__file__).parents[2] / "leaderboard/entries"
SUITE = Suite(name="made-up", track="made-up", per_role=16, attacks={"prefix": {}, "loss": {}})
INPUTS = MadeFrom(
    plain_config(SUITE), "ba5e" * 4, "c0" * 8, "3e" * 8, "70" * 8, "d5" * 8, "fp32", {"held": 1}, {"python": "3.12.1", "torch": "2.13.0"},
    {"prefix": "aa" * 8, "loss": "bb" * 8},
)  # fmt: skip


@pytest.fixture
def track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Frozen:
    """A frozen track in a folder of its own, with the suite file that it was frozen from."""
    monkeypatch.setattr(tracks, "TRACKS", tmp_path)
    monkeypatch.setattr(config, "SUITES", tmp_path / "suites")
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites/made-up.yaml").write_text("track: made-up\nper_role: 16\nattacks: {prefix: {}, loss: {}}\n")
    (tmp_path / "made-up.yaml").write_text("npo: {lr: 1.0e-4}\n")
    return freeze(frozen("made-up", "2026-11-26", COMMIT, INPUTS, {"npo": {"lr": 1e-4}}))


def row(name: str = "mine", **changes: Any) -> Entry:
    """An entry that was made from what the track was frozen with, but for these changes of `MadeFrom`."""
    of = replace(INPUTS, **changes)
    plain = made(name, 0.1, 4, config=of.suite, curve=(), trajectory=(), excerpts=())
    return replace(
        plain,
        hashes=replace(plain.hashes, base=of.base, corpus=of.corpus, memories=of.memories, tokenizer=of.tokenizer, deepspeed=of.deepspeed),
        versions=Versions("0.1.0", COMMIT, False, of.kinds, of.libraries, of.attacks),
        machine=replace(plain.machine, precision=of.precision),
    )


def test_a_record_is_read_as_it_was_written_and_names_its_own_hash(track: Frozen) -> None:
    assert record_of("made-up") == track == frozen_from(track.as_json(), "record")
    assert records() == {"made-up": track}
    assert record_of("other") is record_of("") is None
    assert suite_of(track) == replace(SUITE, precision="fp32")
    assert list(suite_of(frozen_from(track.as_json(), "record")).attacks) == ["prefix", "loss"], "their order is part of what a stage is"


def test_attacks_in_another_order_are_named(track: Frozen, tmp_path: Path) -> None:
    (tmp_path / "suites/made-up.yaml").write_text("track: made-up\nper_role: 16\nattacks: {loss: {}, prefix: {}}\n")
    (found,) = drifted(track)
    assert "attacks: in another order (loss, prefix)" in found


def test_a_record_that_was_edited_is_refused(track: Frozen, tmp_path: Path) -> None:
    file = tmp_path / "made-up.frozen.json"
    file.write_text(file.read_text().replace("2.13.0", "2.14.0"))
    with pytest.raises(UserError, match="was changed after it was written"):
        record_of("made-up")
    file.write_text(track.as_json())
    file.rename(tmp_path / "other.frozen.json")
    with pytest.raises(UserError, match="is the record of the track 'made-up'"):
        record_of("other")


def test_a_frozen_track_is_frozen_once(track: Frozen) -> None:
    assert freeze(frozen("made-up", "2027-01-01", "d" * 40, INPUTS, track.tuned | {"later": {"lr": 1.0}})) == track
    for again in (
        frozen("made-up", "2026-11-26", COMMIT, replace(INPUTS, memories="0" * 16), track.tuned),
        frozen("made-up", "2026-11-26", COMMIT, INPUTS, {"npo": {"lr": 2e-4}}),
    ):
        with pytest.raises(UserError, match=r"is frozen.*(memories: 0|tuned fields of npo).*made-up-2"):
            freeze(again)
    assert record_of("made-up") == track


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"suite": plain_config(replace(SUITE, per_role=8))}, "suite: per_role: 8, not 16"),
        ({"suite": plain_config(replace(SUITE, attacks={"loss": {}}))}, "suite: attacks.prefix: None, not {}"),
        ({"suite": {"per_rule": 3}}, "There is no field named 'per_rule'"),
        *(({name: "0" * 16}, f"{words}: {'0' * 16}, not ") for name, words in (
            ("base", "base model"), ("corpus", "corpus"), ("memories", "memories"), ("tokenizer", "tokenizer"),
            ("deepspeed", "DeepSpeed setting"),
        )),
        ({"precision": "bf16"}, "precision: bf16, not fp32"),
        ({"kinds": {"held": 2}}, "version of the stage held: 2, not 1"),
        ({"kinds": {"held": 1, "new": 1}}, "version of the stage new: 1, not none"),
        ({"libraries": {"python": "3.12.1", "torch": "2.14.0"}}, "library torch: 2.14.0, not 2.13.0"),
        ({"libraries": {"python": "3.12.1, 3.13.0", "torch": "2.13.0"}}, "library python: 3.12, 3.13, not 3.12"),
        ({"attacks": {"loss": "bb" * 8}}, "code of the attack prefix: not told, not aa"),
    ],
)  # fmt: skip
def test_what_a_row_was_made_from_is_named_where_it_differs(change: dict[str, Any], words: str, track: Frozen) -> None:
    (found,) = refusals(track, track.sha256, row(**change).made_from)
    assert words in found


def test_what_does_not_change_results_may_differ(track: Frozen) -> None:
    suite = plain_config(replace(SUITE, name="mine", doc="of mine", methods={"npo": {"lr": 1.0}}, precision="bf16"))
    libraries = {"python": "3.12.9", "torch": "2.13.0+cpu"}
    assert list(differences(track, replace(INPUTS, suite=suite, libraries=libraries))) == []


def test_a_suite_file_or_tuned_fields_that_drift_from_the_record_are_named(track: Frozen, tmp_path: Path) -> None:
    assert drifted(track) == []
    (tmp_path / "suites/made-up.yaml").write_text("track: made-up\nper_role: 32\nattacks: {prefix: {}, loss: {}}\n")
    (tmp_path / "made-up.yaml").write_text("npo: {lr: 2.0e-4}\nlater: {lr: 1.0}\n")
    changed = drifted(track)
    (tmp_path / "suites/made-up.yaml").unlink()
    assert drifted(track) == ["there is no suite made-up any more"]
    assert changed == ["suite: per_role: 32, not 16", "tuned fields of npo: {'lr': 0.0002}, not {'lr': 0.0001}"]


def test_the_board_refuses_rows_that_were_made_from_something_else(track: Frozen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_draw(monkeypatch)
    folder = tmp_path / "entries/made-up"
    folder.mkdir(parents=True)

    def put(*entries: Entry) -> Any:
        for e in entries:
            (folder / f"{e.name}.json").write_text(e.as_json(), "utf-8")
        return CliRunner().invoke(app, ["board", "--entries", str(folder.parent)])

    good = replace(row(), frozen=track.sha256)
    assert put(good).exit_code == 0
    assert f"SHA-256 `{track.sha256}`" in (tmp_path / "entries/../README.md").read_text()
    found = put(replace(row("early")), replace(row("easy", memories="0" * 16), frozen=track.sha256))
    assert str(found.exception).startswith("2 rows are not made from what the track was frozen with")
    assert "made-up/early: it names no record" in found.output
    assert f"made-up/easy: memories: {'0' * 16}, not {INPUTS.memories}" in found.output


def test_the_tracks_page_prints_the_hash_and_the_frozen_inputs(track: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    only_draw(monkeypatch)
    page = site([row()], {"made-up": track})["tracks/made-up/index.html"]
    for said in (
        track.sha256,
        COMMIT,
        INPUTS.base,
        INPUTS.deepspeed,
        "held 1",
        "torch 2.13.0",
        f"prefix {INPUTS.attacks['prefix']}",
        "&#34;per_role&#34;: 16",
    ):
        assert said in page, said
    assert "This track is not frozen" in site([row()])["tracks/made-up/index.html"]
    assert "Not frozen." in beside([row()])["README.md"]


def test_tuning_does_not_write_what_was_frozen(track: Frozen) -> None:
    found = CliRunner().invoke(app, ["tune", "suite=made-up", "method=npo", "--write"])
    assert "is frozen, with the fields that npo has there" in str(found.exception)


def test_a_track_is_frozen_from_a_suite_of_its_name_and_clean_code(track: Frozen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from palimpsest.benchmark.submission import freezing

    monkeypatch.setattr(freezing, "provenance", lambda: {"commit": COMMIT, "dirty": True})
    (tmp_path / "suites/other.yaml").write_text("track: made-up\n")
    with pytest.raises(UserError, match="belongs to the track made-up"):
        freezing.record_from("other", tmp_path)
    with pytest.raises(UserError, match="without changes of its own"):
        freezing.record_from("made-up", tmp_path)


# ---- what is shipped


@pytest.mark.parametrize("name", sorted(records()) or ["none yet"])
def test_shipped_tracks_are_as_they_were_frozen_and_so_are_their_rows(name: str) -> None:
    """Editing a published track's suite or tuned fields fails here: the edited one needs a name of its own."""
    if record := record_of(name):
        assert load_suite(name).track == name
        assert drifted(record) == []
        assert [why for e in shelf(ENTRIES) if e.track == name for why in refusals(record, e.frozen, e.made_from)] == []
