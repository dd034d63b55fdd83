"""What was tuned for a track, and the log of its trials."""

from __future__ import annotations

from pathlib import Path

import pytest

from palimpsest.benchmark.common.plugins import find
from palimpsest.benchmark.running import tune
from palimpsest.benchmark.suites import tracks
from tests.benchmark.trials import trial


@pytest.fixture
def track(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder of tracks."""
    monkeypatch.setattr(tracks, "TRACKS", tmp_path)
    return tmp_path


def test_a_methods_trials_replace_its_earlier_ones_and_leave_the_others(track: Path) -> None:
    tracks.write("mine", "npo", {"lr": 2e-4}, tune.table([trial(0), trial(1)]))
    tracks.write("mine", "ce_u", {"lr": 1e-4}, tune.table([trial(0)]))
    before = (track / "mine-tuning.csv").read_text().splitlines()
    assert before[0] == "method,rule,trial,fields,tokens,exact,matched,damage,lost,note"
    assert [line.split(",")[0] for line in before[1:]] == ["ce_u", "npo", "npo"]
    tracks.write("mine", "npo", {}, tune.table([trial(0, damage=1.0, lr=3e-5)]))
    after = (track / "mine-tuning.csv").read_text().splitlines()
    assert after[:2] == before[:2]
    assert after[2:] == ["npo,2,0,lr=3e-05 kind=1,100,0,0,1,0,over budget"]
    assert tracks.tuned("mine") == {"ce_u": {"lr": 1e-4}}


def test_trials_that_another_rule_chose_from_stay_in_the_log(track: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "RULE", 1)
    tracks.write("mine", "npo", {"lr": 2e-4}, tune.table([trial(0), trial(1)]))
    monkeypatch.setattr(tune, "RULE", 2)
    for _ in range(2):
        tracks.write("mine", "npo", {"lr": 1e-4}, tune.table([trial(0)]))
    lines = (track / "mine-tuning.csv").read_text().splitlines()[1:]
    assert [line.split(",")[:3] for line in lines] == [["npo", "1", "0"], ["npo", "1", "1"], ["npo", "2", "0"]]
    assert tracks.tuned("mine") == {"npo": {"lr": 1e-4}}


def test_a_track_for_which_nothing_was_tuned_leaves_methods_their_defaults() -> None:
    assert tracks.tuned("quick") == {}


@pytest.mark.parametrize("file", [f for f in sorted(tracks.TRACKS.glob("*.yaml")) if tracks.tuned(f.stem)], ids=lambda f: f.stem)
def test_the_fields_of_a_shipped_track_make_methods_and_are_the_chosen_ones_of_its_table(file: Path) -> None:
    every = tracks.pd.read_csv(file.with_name(f"{file.stem}-tuning.csv"))
    table = every[every["rule"] == every.groupby("method")["rule"].transform("max")].set_index("method")
    chosen = table[table["note"] == "chosen"]["fields"]
    assert set(chosen.index) == set(tracks.tuned(file.stem))
    for name, fields in tracks.tuned(file.stem).items():
        find("method", name).make(fields)
        assert chosen[name] == " ".join(f"{k}={v}" for k, v in fields.items())
    assert table.groupby(level=0).size().nunique() == 1, "every method had the same number of trials"
