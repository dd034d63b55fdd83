"""The levels that ask models: a slice of the answers again, the whole method again, passages that nobody has seen, an entry reproduced.

One run of a tiny suite serves all of it: two memories of each role and one seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.paths import CONFIGS
from palimpsest.benchmark.running import provenance
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.submission import rerun, schema, spotcheck
from palimpsest.benchmark.submission.bundle import opened
from palimpsest.benchmark.submission.levels import Case, Finding, Options, checks_of, verify
from palimpsest.benchmark.submission.making import Said, make
from palimpsest.benchmark.submission.row import own_row
from palimpsest.benchmark.suites.config import CorpusConfig, QualityConfig, Suite
from tests.command import Command
from tests.conftest import Memorised
from tests.forging import Forger
from tests.micro import micro_suite
from tests.verifying import MINE, OTHER, WEIGHTS, forged, reconfigure, shorter, swapped, unlikely, write_private

COMMIT = "c" * 40
SAID = Said("micro", "https://example.org/paper", "https://example.org/code", today="2026-11-26", weights=True)


@pytest.fixture(scope="module")
def clean_checkout() -> Iterator[None]:
    """Stages are made as by a checkout without changes of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "_checkout", lambda: (COMMIT, False))
        patch.setattr(schema, "has_commit", lambda commit: commit == COMMIT)
        yield


@pytest.fixture(scope="module")
def micro(memorised: Memorised, small_corpus: CorpusConfig) -> Suite:
    """On a model that repeats what it was taught, so that lengths of every size occur."""
    suite = replace(micro_suite(memorised.subject.folder, small_corpus, 8), attacks={"prefix": {}, "paraphrase": {}, "loss": {}})
    return replace(suite, quality=QualityConfig(("palimpsest_bits_per_byte",), documents=8))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("author"))


@pytest.fixture(scope="module")
def mine(clean_checkout: None, micro: Suite, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a method of one's own, with weights."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text(MINE)
    (folder / "beside_verified.py").write_text("SHARE = 0.97\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        row, told = own_row(micro, str(folder / "mine.py"), store)
        row.execute()
        make(row, told, SAID, folder / "mine.zip")
    return folder / "mine.zip"


def findings(file: Path, suite: Suite, level: str, **options: Any) -> dict[str, Finding]:
    """What one level finds, by what it looks at."""
    with opened(file) as bundle:
        return {f.what: f for f in checks_of(level)(Case(bundle, suite, Options(**options), level))}


def differing(found: dict[str, Finding]) -> list[str]:
    return [f"{f.what}: {f.seen}" for f in found.values() if f.agreed is False]


# ---- a slice of the answers


def test_a_slice_of_an_honest_bundle_agrees(mine: Path, micro: Suite, store: Store, tmp_path: Path) -> None:
    with opened(mine) as bundle:
        found = list(verify(Case(bundle, micro, Options(seed=1, store=tmp_path / "none")), "spotcheck"))
    assert [f for _, f in found if f.agreed is False] == []
    assert "seed 1" in next(f.seen for _, f in found if f.what == "answers of mine")
    known = findings(mine, micro, "spotcheck", seed=1, store=store.root)
    assert known["answers of held model and twin"].agreed


def test_the_slice_follows_the_verifiers_seed(mine: Path, micro: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[set[tuple[str, str]]] = []
    monkeypatch.setattr(spotcheck, "_compare", lambda row, model, subject, told, seen: drawn.append(set(told)))
    for seed in (1, 1, 2, 3, 4, 5, None):  # two seeds may draw the same three of few
        findings(mine, micro, "spotcheck", seed=seed, slice=3, store=tmp_path / "none")
    assert drawn[0] == drawn[1]
    assert any(d != drawn[0] for d in drawn)
    assert [len(d) for d in drawn] == [3] * 7


def test_a_level_is_named_before_it_has_found_anything(mine: Path, micro: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def looks(name: str) -> Callable[[Case], Iterator[Finding]]:
        def check(_: Case) -> Iterator[Finding]:
            told.append(f"{name} looks")
            yield Finding("all", True)

        return check

    monkeypatch.setattr("palimpsest.benchmark.submission.levels.checks_of", looks)
    with opened(mine) as bundle:
        list(verify(Case(bundle, micro, Options(progress=lambda what, *_: told.append(what))), "rescore"))
    assert told == ["level schema", "schema looks", "level rescore", "rescore looks"]


@pytest.mark.parametrize(
    ("change", "words"),
    [(swapped, "these weights give"), (shorter, "is recorded with 0 tokens"), (unlikely, "log-probabilities of its tokens differ")],
)
def test_a_slice_shows_what_was_forged(change: Callable[[Forger], None], words: str, mine: Path, micro: Suite, tmp_path: Path) -> None:
    found = findings(forged(mine, change, tmp_path), micro, "spotcheck", seed=0, store=tmp_path / "none")
    assert found["weights"].agreed
    assert words in found["answers of mine"].seen
    assert found["answers of mine"].agreed is False


def test_records_of_the_twin_are_asked_where_the_verifier_has_it(mine: Path, micro: Suite, store: Store, tmp_path: Path) -> None:
    def raised(forger: Forger) -> None:
        forger.table(forger.stage("battery", "tier 1 on twin") + "/answers.parquet", lambda t: t.assign(matched=t.horizon))
        forger.sign()

    found = findings(forged(mine, raised, tmp_path), micro, "spotcheck", seed=0, store=store.root)
    assert found["answers of mine"].agreed
    assert found["answers of held model and twin"].agreed is False


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: [f.content.pop(WEIGHTS), f.info.update(hub="")], "neither holds weights nor names them on a hub"),
        (lambda f: f.content.update({WEIGHTS: b"x" * 99}), "expected"),
        (lambda f: f.info.update(weights={"0": "0" * 64}), "expected one hash"),
        (lambda f: reconfigure(f, num_attention_heads=4), "another architecture than the base: num_attention_heads is 4, not 2"),
    ],
)
def test_weights_that_are_not_to_be_asked_are_named(change: Any, words: str, mine: Path, micro: Suite, tmp_path: Path) -> None:
    found = findings(forged(mine, change, tmp_path), micro, "spotcheck", seed=0, store=tmp_path / "none")
    assert [f.agreed for f in found.values()] == [False]
    assert words in found["weights"].seen


def test_weights_come_from_a_pinned_revision_of_the_hub(mine: Path, micro: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Forger.of(mine).content[WEIGHTS]
    asked: list[dict[str, Any]] = []

    def download(repository: str, name: str, **more: Any) -> str:
        asked.append({"repository": repository, "name": name} | more)
        (tmp_path / "fetched").write_bytes(there)
        return str(tmp_path / "fetched")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url, token: type("Told", (), {"size": len(there)}))
    hub = "me/mine@" + "0" * 40
    away = forged(mine, lambda f: [f.content.pop(WEIGHTS), f.info.update(hub=hub)], tmp_path)
    assert differing(findings(away, micro, "spotcheck", seed=0, slice=2, store=tmp_path / "none")) == []
    assert {k: asked[0][k] for k in ("repository", "name", "revision", "token")} == {
        "repository": "me/mine", "name": "0/model.safetensors", "revision": "0" * 40, "token": False,
    }  # fmt: skip


# ---- the method again


def test_nothing_of_the_authors_runs_unasked(mine: Path, micro: Suite) -> None:
    for level, options in (("retrain", {}), ("audit", {"memories": CONFIGS / "memories" / "passages.jsonl"})):
        (found,) = findings(mine, micro, level, **options).values()
        assert (found.agreed, "say --yes" in found.seen) == (False, True)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which what was trained again is found again."""
    return tmp_path_factory.mktemp("kept")


def test_an_honest_method_run_again_gives_the_same(
    mine: Path, micro: Suite, store: Store, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It also looks whether the verifier's token reaches it, which must not be, and the corpus, which would take minutes to make."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path))
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "made.jsonl").write_text("made before")
    found = findings(mine, micro, "retrain", yes=True, store=store.root, scratch=kept)
    assert differing(found) == []
    assert [f.read_text() for f in kept.rglob("home/cache/corpus/made.jsonl")] == ["made before"]
    assert found["weights"].seen == "identical, seed by seed"
    assert found["versions, machine and precision"].agreed


def test_another_models_answers_do_not_survive_running_again(mine: Path, micro: Suite, store: Store, kept: Path, tmp_path: Path) -> None:
    """Those of the twin stand in for the method's."""

    def exchange(forger: Forger) -> None:
        for tier in (0, 1):
            twin, own = (forger.stage("battery", f"tier {tier} on {m}") for m in ("twin", "mine"))
            forger.content[f"{own}/answers.parquet"] = forger.content[f"{twin}/answers.parquet"]
        forger.sign()

    found = findings(forged(mine, exchange, tmp_path), micro, "retrain", yes=True, store=store.root, scratch=kept)
    assert found["weights"].agreed
    assert found["answers of held model and twin"].agreed
    assert found["answers of mine"].agreed is False


def test_a_model_that_this_code_does_not_make_is_told(mine: Path, micro: Suite, store: Store, kept: Path, tmp_path: Path) -> None:
    found = findings(forged(mine, swapped, tmp_path), micro, "retrain", yes=True, store=store.root, scratch=kept)
    assert "what this code makes of it is another model" in found["weights"].seen
    assert [found[f"answers of {who}"].agreed for who in ("held model and twin", "mine")] == [True, None]


def test_other_code_needs_no_run_to_be_told(mine: Path, micro: Suite, tmp_path: Path) -> None:
    file = forged(mine, lambda f: f.content.update({"method/mine.py": OTHER.encode()}), tmp_path)
    assert "its code has" in findings(file, micro, "rescore")["source of the method"].seen


@pytest.mark.parametrize(
    ("limit", "words"), [(60.0, "ended with status 1: ModuleNotFoundError: No module named 'nothing'"), (0.001, "all that --limit allows")]
)
def test_a_process_that_fails_or_does_not_end_is_said(limit: float, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerun, "NAME", "nothing")
    with pytest.raises(UserError, match=words):
        rerun._process(tmp_path, [], limit)


# ---- passages that nobody has seen


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_private(tmp_path_factory.mktemp("private") / "fresh.jsonl")


def test_the_audit_compares_fresh_passages_with_published_ones(
    mine: Path, micro: Suite, store: Store, private: Path, tmp_path: Path
) -> None:
    found = findings(mine, micro, "audit", yes=True, store=store.root, memories=private, scratch=tmp_path / "kept")
    assert "18 passages, 2 of each role (the track has 2)" in found["fresh memories"].seen
    assert "run again" not in found["fresh memories"].seen
    assert {"excess, black-box", "collateral", "damage", "the held model on both", "verdict"} <= found.keys()
    assert found["verdict"].agreed is not None
    assert (tmp_path / "kept" / "fresh" / "store" / "method").is_dir()


def test_published_passages_are_no_fresh_ones(mine: Path, micro: Suite) -> None:
    found = findings(mine, micro, "audit", yes=True, memories=CONFIGS / "memories" / "passages.jsonl")
    assert "shares a run of 8 words with a published passage" in found["fresh memories"].seen


# ---- an entry


def test_an_entry_is_reproduced(mine: Path, store: Store, tmp_path: Path, palimpsest: Command) -> None:
    with opened(mine) as bundle:
        stated = json.loads(bundle.entry.as_json())
    entry, code = tmp_path / "entry.json", mine.parent / "mine.py"
    entry.write_text(json.dumps(stated))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(mine.parent))
        status, out, _ = palimpsest("reproduce", str(entry), "--store", str(store.root), "--method", str(code), "--seed", "0")
        assert (status, "Identical on the same versions and machine kind" in out) == (0, True)
        stated["claimed"]["opening"] |= {"value": 60.0, "low": 59.0, "high": 61.0, "by_seed": [60.0]}
        stated["hashes"]["source"], stated["machine"]["threads"] = "0" * 16, 99
        entry.write_text(json.dumps(stated))
        status, out, _ = palimpsest("reproduce", str(entry), "--store", str(store.root), "--method", str(code))
    assert (status, "outside" in out, "threads 99, here 1" in out) == (1, True, True)
    assert "differs: the code of the method mine: 0000000000000000 in the entry" in out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "The method mine is not in this installation"),
        ({"seeds": "7"}, "the entry has the seeds 0"),
        ({"hashes": {"base": "f" * 16}, "method": "npo"}, "base model of the entry has the hash ffffffffffffffff"),
    ],
)
def test_what_cannot_be_reproduced_is_said(change: dict[str, Any], words: str, mine: Path, tmp_path: Path, palimpsest: Command) -> None:
    with opened(mine) as bundle:
        stated = json.loads(bundle.entry.as_json())
    stated["hashes"] |= change.get("hashes", {})
    stated["method"] = change.get("method", "mine")
    (tmp_path / "entry.json").write_text(json.dumps(stated))
    status, out, _ = palimpsest("reproduce", "entry.json", "--seed", change.get("seeds", ""))
    assert (status, words in out) == (2, True)
