"""A bundle of an honest run agrees at every level that needs no model, and an author is told beforehand what would be refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.frozen import Frozen, frozen
from palimpsest.benchmark.common.plugins import find
from palimpsest.benchmark.running import provenance
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.submission import making, rescore, schema
from palimpsest.benchmark.submission.bundle import Bundle, MethodOf, opened
from palimpsest.benchmark.submission.levels import Case, Finding, verify
from palimpsest.benchmark.submission.making import Said, make, missing, problems, saw
from palimpsest.benchmark.submission.row import Reference, Row, inputs_of, own_row, reference_of
from palimpsest.benchmark.suites import config, tracks
from palimpsest.benchmark.suites.config import QualityConfig, load_suite
from palimpsest.benchmark.suites.frozen import deviations, freeze, plain_config
from palimpsest.leaderboard.entry import read_entry
from tests.benchmark.conftest import ADDRESS, COMMIT
from tests.command import Command

SAID = Said("micro-npo", ADDRESS, ADDRESS, today="2026-11-26")
MINE = '''"""A method of one's own."""
import os
from dataclasses import dataclass

from beside import AMOUNT
from palimpsest.benchmark.method import Method

open(os.environ.get("PALIMPSEST_TEST_MARK", os.devnull), "w").close()  # whoever imports this leaves a mark


@dataclass(frozen=True)
class Mine(Method):
    """Forgets nothing."""

    amount: float = AMOUNT

    def unlearn(self, held, data, train):
        return held
'''


@pytest.fixture
def bundle(honest: Path) -> Iterator[Bundle]:
    with opened(honest) as found:
        yield found


@pytest.fixture(scope="module")
def npo(clean: Run) -> tuple[Row, MethodOf]:
    """The row of npo in the store in which it was made."""
    return own_row(clean.suite, "npo", clean.store)


def differing(found: list[tuple[str, Finding]]) -> list[str]:
    return [f"{level}: {f.what}: {f.seen}" for level, f in found if f.agreed is False]


def test_an_honest_bundle_agrees(bundle: Bundle, clean: Run) -> None:
    found = list(verify(Case(bundle, clean.suite), "rescore"))
    assert differing(found) == []
    assert [level for level, _ in found] == sorted((level for level, _ in found), key=["schema", "rescore"].index)
    assert any(f.what == "every number of the entry" and f.agreed for _, f in found)


def test_a_bundle_holds_the_row_and_nothing_of_other_methods(bundle: Bundle) -> None:
    assert {m["inputs"]["method"] for m in bundle.store.finished("method")} == {"npo"}
    assert (bundle.entry.method, bundle.entry.name, bundle.entry.saw) == ("npo", "micro-npo", ("forget", "shown", "retain"))
    weights = [name for name in bundle.info.files if name.endswith("model.safetensors")]
    assert weights == ["weights/0/model.safetensors"]
    assert "torch==" in (bundle.folder / "lock.txt").read_text()
    card = (bundle.folder / "card.md").read_text()
    assert "# micro-npo" in card
    assert "| damage, % |" in card


def test_the_same_row_gives_the_same_bytes(clean: Run, tmp_path: Path) -> None:
    for name in ("once.zip", "again.zip"):  # of one store: the excerpts of another process took other seconds
        row, told = own_row(clean.suite, "npo", clean.store)
        make(row, told, replace(SAID, weights=True), tmp_path / name)
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "once.zip").read_bytes()


@pytest.mark.parametrize(("reference", "seen"), [("none", "nothing"), ("retrain", "history without forget")])
def test_the_ceiling_and_the_gold_standard_have_entries_too(reference: str, seen: str, clean: Run, tmp_path: Path) -> None:
    row, told = own_row(clean.suite, reference, clean.store)
    make(row, told, replace(SAID, name=reference), tmp_path / "b.zip")
    with opened(tmp_path / "b.zip") as b:
        assert b.entry.may_see == seen
        assert f"It may have seen: {seen}\n" in (b.folder / "card.md").read_text()
        assert differing(list(verify(Case(b, clean.suite), "rescore"))) == []


def test_what_a_method_may_see_is_what_it_declares_or_else_all_that_it_is_handed(clean: Run) -> None:
    suite = replace(clean.suite, methods={"gradient_ascent": {}, "npo": {"shown_share": 0.0}, "goldfish_retrain": {}})
    (row, told), *others = (own_row(suite, name, clean.store) for name in suite.methods)
    assert [saw(row, told), *(saw(*o) for o in others)] == [("forget",), ("forget", "retain"), ("forget", "shown", "retain", "history")]
    assert saw(row, replace(told, file="mine.py", name="mine")) == ("forget", "shown", "retain")


def test_a_method_of_ones_own_is_read_and_never_run(clean: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "beside.py").write_text("AMOUNT = 2.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    asked = f"{tmp_path / 'mine.py'}:Mine"
    row, told = own_row(clean.suite, asked, clean.store)
    assert next(s.label for s in missing(row)) == "Mine, seed 0"
    row.execute()
    make(row, told, SAID, tmp_path / "mine.zip")
    find.cache_clear()
    monkeypatch.setenv("PALIMPSEST_TEST_MARK", str(tmp_path / "mark"))
    with opened(tmp_path / "mine.zip") as b:
        assert {n for n in b.info.files if n.startswith("method/")} == {"method/mine.py", "method/beside.py"}
        assert differing(list(verify(Case(b, clean.suite), "rescore"))) == []
        (b.folder / "method" / "beside.py").write_text("AMOUNT = 3.0\n")
        assert "schema: files are those that bundle.json lists" in differing(list(verify(Case(b, clean.suite), "rescore")))[0]
        checks = __import__("palimpsest.benchmark.submission.rescore", fromlist=["check"]).check
        assert "its code has" in next(f.seen for f in checks(Case(b, clean.suite)) if f.what == "source of the method")
    assert not (tmp_path / "mark").exists()


# ---- beforehand


def test_nothing_is_said_against_an_honest_row(npo: tuple[Row, MethodOf], clean: Run) -> None:
    assert list(problems(*npo, SAID, Reference(clean.suite))) == []
    assert missing(npo[0]) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../x"}, "--name '../x': expected a plain word"),
        ({"paper": "javascript:alert(1)"}, "--paper"),
        ({"hub": "me/mine"}, "expected OWNER/NAME@REVISION"),
        ({"hub": "me/mine@main"}, "a branch can move"),
        ({"hub": "me/mine@" + "0" * 40, "weights": True}, "choose one"),
        ({"today": "soon"}, "expected a date"),
    ],
)
def test_what_the_author_says_is_held_to_the_entrys_rules(change: dict, message: str, npo: tuple[Row, MethodOf], clean: Run) -> None:
    assert any(message in p for p in problems(*npo, replace(SAID, **change), Reference(clean.suite)))


def test_a_row_made_with_less_than_the_track_asks_for_is_told_so(npo: tuple[Row, MethodOf], clean: Run) -> None:
    track = replace(clean.suite, seeds=(0, 1, 2), per_role=16, quality=QualityConfig(documents=100))
    found = " ".join(problems(*npo, SAID, Reference(track)))
    assert all(words in found for words in ("seeds: [0], not [0, 1, 2]", "per_role: 4, not 16", "quality.documents: 8, not 100"))


def test_what_a_suite_may_differ_in_is_its_name_and_methods() -> None:
    quick, mine, other = (plain_config(load_suite("quick", o)) for o in ([], ["method=npo", "name=mine"], ["attack=paraphrase"]))
    assert deviations(mine, quick) == []
    assert deviations(other, quick) != []


@pytest.mark.parametrize(
    ("state", "message"),
    [((None, None), "no checkout of the repository"), (("c" * 40, True), "this checkout has changes of its own")],
)
def test_code_that_nobody_else_has_is_told(
    state: tuple, message: str, npo: tuple[Row, MethodOf], clean: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "_checkout", lambda: state)
    assert any(message in p for p in problems(*npo, SAID, Reference(clean.suite)))


def test_stages_that_are_missing_are_counted(clean: Run) -> None:
    row, _ = own_row(replace(clean.suite, seeds=(0, 1)), "npo", clean.store)
    assert {s.kind for s in missing(row)} == {"held", "twin", "method", "battery", "checks", "quality"}


# ---- a frozen track


@pytest.fixture
def track(clean: Run, npo: tuple[Row, MethodOf], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Frozen:
    """The suite of these tests as a published track, frozen from what the run was made with."""
    monkeypatch.setattr(tracks, "TRACKS", tmp_path)
    monkeypatch.setattr(config, "SUITES", tmp_path)
    (tmp_path / "micro.yaml").write_text(json.dumps(plain_config(clean.suite)))
    inputs = replace(inputs_of(npo[0]), suite=plain_config(replace(clean.suite, track="")))
    return freeze(frozen("micro", "2026-11-26", COMMIT, inputs, {}))


def test_a_row_of_a_frozen_track_agrees_and_names_its_record(track: Frozen, npo: tuple[Row, MethodOf], tmp_path: Path) -> None:
    reference = reference_of("", "micro")
    assert (reference.frozen, reference.suite.per_role) == (track, 4)
    make(*npo, replace(SAID, frozen=track.sha256), tmp_path / "b.zip")
    with opened(tmp_path / "b.zip") as b:
        found = list(verify(Case(b, reference.suite, frozen=track), "rescore"))
        assert differing(found) == []
        assert {"frozen track", "frozen inputs"} <= {f.what for _, f in found}
        assert b.entry.frozen == track.sha256


def test_a_row_from_before_its_track_was_frozen_is_refused(track: Frozen, bundle: Bundle) -> None:
    (said,) = differing(list(verify(Case(bundle, reference_of("", "micro").suite, frozen=track), "rescore")))
    assert said.startswith("schema: frozen track: it names no record")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"memories": "0" * 16}, "memories: "),
        ({"kinds": {"held": 0}}, "version of the stage held: 1, not 0"),
        ({"libraries": {"torch": "1.0"}}, "library torch: "),
        ({"precision": None}, "(run with precision="),  # the other one: which a row has depends on the processor
        ({"attacks": {"prefix": "0" * 16}}, "code of the attack prefix: "),
    ],
)
def test_a_row_that_is_made_from_something_else_is_refused_before_it_is_run_and_afterwards(
    change: dict[str, Any], words: str, track: Frozen, npo: tuple[Row, MethodOf], bundle: Bundle
) -> None:
    old = track.inputs
    turned = {"fp32": "bf16", "bf16": "fp32"}[old.precision]
    changed = {k: getattr(old, k) | v if isinstance(v, dict) else v or turned for k, v in change.items()}
    other = frozen("micro", track.date, track.commit, replace(old, **changed), {})
    told = [p for p in problems(*npo, SAID, Reference(npo[0].suite, other)) if p.startswith("frozen track micro: ")]
    assert [words in p for p in told] == [True]
    case = Case(bundle, npo[0].suite, frozen=other)
    assert words in next(f.seen for f in schema.check(case) if f.what == "frozen track")
    assert words in next(f.seen for f in rescore.check(case) if f.what == "frozen inputs")


# ---- the commands


def test_the_commands_submit_and_verify(clean: Run, honest: Path, tmp_path: Path, palimpsest: Command) -> None:
    assert "one method=NAME" in palimpsest("submit", "suite=quick")[2]
    code, out, _ = palimpsest("verify", str(honest), "--level", "schema", "--suite", "pocket")
    assert code == 1
    assert "seeds: missing 1, 2" in out
    assert "1 thing differs at the level schema" in out
    (tmp_path / "no.zip").write_text("no zip")
    code, out, _ = palimpsest("verify", str(tmp_path / "no.zip"))
    assert (code, "Refused" in out) == (2, True)


def test_an_author_asks_makes_a_bundle_and_looks_at_it(clean: Run, tmp_path: Path, palimpsest: Command) -> None:
    (tmp_path / "own.yaml").write_text(json.dumps(plain_config(clean.suite)))
    words = ["submit", "suite=own.yaml", "method=npo", "--name", "mine", "--store", str(clean.store.root)]
    code, out, err = palimpsest(*words, "--dry-run")
    assert (code, "Nothing here would be refused." in out) == (0, True), err
    assert "others need its file to verify" in out
    code, out, err = palimpsest(*words, "--dry-run", "--hub", "me/mine@main")
    assert (code, "a branch can move" in out, "1 reason to refuse" in err) == (1, True, True)
    assert palimpsest(*words)[0] == 0
    code, out, _ = palimpsest("verify", "mine.zip", "--level", "schema", "--suite", "own.yaml")
    assert (code, "Everything that the level schema looks at agrees." in out) == (0, True)


def test_a_dry_run_tries_the_cheap_rules_unless_others_are_asked_for(
    clean: Run, tmp_path: Path, palimpsest: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[bool] = []

    def broken(row: Row, asked: str, cheap: bool) -> Iterator[str]:
        tried.append(cheap)
        yield "the method breaks the rule 'keeps': 9 bits"

    monkeypatch.setattr(making, "broken_rules", broken)
    (tmp_path / "own.yaml").write_text(json.dumps(plain_config(clean.suite)))
    (tmp_path / "mine.py").write_text(MINE.replace("from beside import AMOUNT\n", "AMOUNT = 2.0\n"))
    words = ["submit", "suite=own.yaml", "method=./mine.py:Mine", "--store", str(clean.store.root), "--dry-run"]
    code, out, err = palimpsest(*words)
    assert (code, "refused the method breaks the rule 'keeps'" in out, "1 reason to refuse" in err) == (1, True, True), out + err
    assert palimpsest(*words, "--rules", "all")[0] == 1
    assert palimpsest(*words, "--rules", "none")[0] == 0
    assert tried == [True, False]
    assert "choice of rules named 'some'" in palimpsest(*words, "--rules", "some")[2]


def test_what_agrees_can_be_published_as_verified(clean: Run, honest: Path, tmp_path: Path, palimpsest: Command) -> None:
    (tmp_path / "own.yaml").write_text(json.dumps(plain_config(clean.suite)))
    entry = tmp_path / "entries/own/npo.json"
    words = ("verify", str(honest), "--suite", "own.yaml", "--entry", str(entry))
    assert "name yourself with --by" in palimpsest(*words)[2]
    assert "where its numbers are recomputed" in palimpsest(*words, "--by", "us", "--level", "schema")[2]
    assert not entry.exists()
    code, out, err = palimpsest(*words, "--by", "us", "--store", str(clean.store.root))
    assert code == 0, out + err
    found = read_entry(entry)
    assert found.verified
    assert (found.verified.level, found.verified.by, found.verified.values) == ("rescore", "us", found.claimed)
    assert found.verified.bundle == hashlib.sha256(honest.read_bytes()).hexdigest()


def test_a_level_that_is_not_known_is_named(bundle: Bundle, clean: Run) -> None:
    with pytest.raises(UserError, match="There is no level named 'trust'"):
        list(verify(Case(bundle, clean.suite), "trust"))
