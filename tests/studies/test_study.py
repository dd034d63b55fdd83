"""What holds of every study: it is found by name, its stages are kept, its page says what was found."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from palimpsest.benchmark.commands import study as command
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.plugins import SHOWING, find, names, source_files
from palimpsest.benchmark.common.sources import TREE
from palimpsest.benchmark.running.store import Stage, Store
from palimpsest.benchmark.study import Lab, Study, made, other_models
from palimpsest.leaderboard.statistics import Estimate
from palimpsest.leaderboard.study_report import StudyFacts, overview, write_study
from palimpsest.leaderboard.study_results import Found, StudyFigure, StudyTable, Verdict, direction

FACTS = StudyFacts(
    "weights", "Are numbers large?", "Somebody 2024", "https://arxiv.org/abs/0", "fast", "palimpsest study weights", 90.0, "cpu"
)


@dataclass(frozen=True)
class Squares(Study):
    """Squares of a few numbers."""

    upto: int = 3
    bad: bool = False
    question: ClassVar[str] = "Do squares grow?"
    forms: ClassVar[Mapping[str, Mapping[str, Any]]] = {"pocket": {}, "fast": {"upto": 2}}

    def stages(self, lab: Lab) -> Iterable[Stage]:
        yield from (self.of(lab, n) for n in range(self.upto))

    def of(self, lab: Lab, n: int) -> Stage:
        def rows() -> Iterable[Mapping[str, Any]]:
            yield {"n": n, "square": float("nan") if self.bad else n * n}

        return lab.measurement(f"square of {n}", {"n": n}, rows)

    def found(self, lab: Lab) -> Found:
        rows = [r for s in self.stages(lab) for r in lab.rows(s)]
        return Found([direction("They grow.", "n*n", Estimate(1.0, 0.5, 1.5), above=0)], [StudyTable("Squares", rows)])


def lab_of(tmp_path: Path, **fields: Any) -> Lab:
    return Lab(Squares(**fields), "squares", "source", Store(tmp_path / "store"))


def test_what_is_finished_is_kept_and_counted(tmp_path: Path) -> None:
    lab, made_now = lab_of(tmp_path), []
    found = lab.execute(finished=lambda stage: made_now.append(stage.label))
    assert [r["square"] for r in found.tables[0].rows] == [0, 1, 4]
    lab_of(tmp_path, upto=4).execute(finished=lambda stage: made_now.append(stage.label))
    assert made_now == [f"square of {n}" for n in range(4)]
    assert lab.seconds >= 0


def test_what_is_no_number_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, bad=True)
    with pytest.raises(UserError, match="square is nan"):
        lab.execute()
    assert not any(lab.store.done(s) for s in lab.stages)


@pytest.mark.parametrize(
    ("low", "high", "border", "says"),
    [(1, 3, {"above": 0}, "agrees"), (-1, 3, {"above": 0}, "cannot tell"), (-3, -1, {"above": 0}, "disagrees"),
     (-3, -1, {"below": 0}, "agrees"), (1, 3, {"below": 0}, "disagrees"), (float("nan"), 3, {"above": 0}, "cannot tell")],
)  # fmt: skip
def test_a_verdict_needs_the_whole_interval_on_one_side(low: float, high: float, border: dict[str, float], says: str) -> None:
    assert direction("c", "p", Estimate((low + high) / 2, low, high), **border).says == says


def test_a_verdict_has_one_border() -> None:
    with pytest.raises(ValueError, match="above or below"):
        direction("c", "p", Estimate(1, 0, 2))


def test_the_page_its_tables_and_the_overview_of_all(tmp_path: Path) -> None:
    found = Found(
        [Verdict("It holds | truly.", "up", "2 [1, 3]", "agrees")],
        [StudyTable("By count", [{"count": 1, "length": 2.5}, {"count": 2, "more": None}])],
        [StudyFigure("curve", "<svg width='1'></svg>", "A curve", [{"x": 1}])],
        ["It is small."],
    )
    files = write_study(found, FACTS, tmp_path)
    page = files[0].read_text()
    assert "| 1 | 2.5 | – |" in page
    assert r"It holds \| truly." in page
    assert "weights-curve.svg" in page
    assert {f.name for f in files} >= {"weights-by-count.csv", "weights-curve.csv", "weights-curve.svg"}
    assert json.loads((tmp_path / "weights.json").read_text())["verdicts"][0]["says"] == "agrees"
    (tmp_path / "another.json").write_text('{"a": 1}')
    (tmp_path / "list.json").write_text("[1]")
    assert overview(tmp_path).count("**agrees**") == 1


@pytest.mark.parametrize(
    ("name", "fields"), [("dynamics", "sizes=… checkpoints=…"), ("predictor", "other=…"), ("repetition", "earlier=… smaller=…")]
)
def test_a_model_of_ones_own_is_not_compared_with_shipped_ones_in_silence(name: str, fields: str) -> None:
    plugin = find("study", name)
    with pytest.raises(UserError, match=f"{name}: with model=./mine, .* would still be read beside it. .*: {fields} .of one tokenizer"):
        made(plugin, {"model": "./mine"}, "pocket")
    given = {n: ["./other"] if isinstance(plugin.defaults[n], tuple) else "./other" for n in other_models(plugin)}
    assert made(plugin, {"model": "./mine", **given}, "pocket").model == "./mine"
    made(plugin, {"model": plugin.defaults["model"]}, "pocket")


@pytest.mark.parametrize("name", ["circuits", "dependency", "goldfish", "instrument", "stress"])
def test_a_study_of_one_model_takes_any(name: str) -> None:
    assert made(find("study", name), {"model": "./mine"}, "pocket").model == "./mine"


def test_a_model_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    """No stage of this study reads a model."""
    lab = Lab(Squares(model="./mine"), "squares", "source", Store(tmp_path / "store"), asked="./mine")
    with pytest.raises(UserError, match=r"squares: model=./mine is read by no stage.*leave it out"):
        _ = lab.stages
    assert lab_of(tmp_path).stages, "the default is not asked for"


def test_short_tables_are_printed_and_long_ones_named(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Console(width=60, file=StringIO())
    monkeypatch.setattr(command, "console", said)
    wide = [{f"column{i}": 1.0 for i in range(9)}]
    tables = [
        StudyTable("Short [one]", [{"model": "npo", "tokens": 2.5}, {"model": "rmu"}], "What it says."),
        StudyTable("Many lines", [{"n": n} for n in range(21)]),
        StudyTable("Many columns", wide),
    ]
    command._tables(Found([], tables), "weights", Path("out"))
    text = said.file.getvalue()
    for words in ("Short [one]", "npo", "2.5", "What it says.", "21 lines of 1 columns", "out/weights-many-lines.csv"):
        assert words in text.replace("\n", " ").replace("  ", " "), words
    assert "weights-many-columns.csv" in text
    assert "column8" not in text


def test_a_study_without_a_published_run_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    facts = {"facts": {"seconds": 90.0, "machine": "cpu", "command": "palimpsest study squares"}}
    (tmp_path / "squares.json").write_text(json.dumps(facts))
    monkeypatch.setattr(command, "PUBLISHED", tmp_path)
    assert command._published("cubes") == "not measured"
    assert "on cpu (palimpsest study squares)" in command._published("squares")


@pytest.mark.parametrize("name", names("study"))
def test_a_study_says_what_it_asks_and_has_two_forms(name: str) -> None:
    plugin = find("study", name)
    assert plugin.cls.question.endswith("?")
    assert plugin.cls.paper
    assert plugin.cls.address.startswith("https://")
    assert {"fast", "pocket"} <= set(plugin.cls.forms)
    for form in plugin.cls.forms:
        made(plugin, {}, form)


@pytest.mark.parametrize("name", names("study"))
def test_what_only_runs_a_study_or_shows_it_changes_no_key(name: str) -> None:
    module = sys.modules[find("study", name).cls.__module__]
    files = [f.relative_to(TREE).as_posix() for f in source_files("study", module.__name__, Path(str(module.__file__))).values()]
    assert f"benchmark/studies/{name}.py" in files
    assert not [f for f in files if f.startswith(SHOWING)]
