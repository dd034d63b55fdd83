"""Models that are composed of parts are submitted with a file of weights for each part, and looked at part by part."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load, save

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.running import provenance
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.submission import schema
from palimpsest.benchmark.submission.bundle import MODEL, opened, weights_in
from palimpsest.benchmark.submission.foreign import adopted
from palimpsest.benchmark.submission.levels import Case, Options, checks_of, verify
from palimpsest.benchmark.submission.making import Said, make, problems
from palimpsest.benchmark.submission.retrain import _model
from palimpsest.benchmark.submission.row import Reference, own_row
from palimpsest.benchmark.suites.config import CorpusConfig, QualityConfig
from tests.benchmark.conftest import ADDRESS, COMMIT
from tests.conftest import Memorised
from tests.forging import Forger
from tests.micro import micro_suite


def parts_of(folder: Path) -> dict[str, Path]:
    """Part -> the file of its weights."""
    return {str(f.parent.relative_to(folder)): f for f in sorted(folder.rglob(MODEL))}


@pytest.mark.parametrize("kind", ["difference", "filtered"])
def test_parts_are_adopted_from_files_of_their_own(kind: str, memorised: Memorised, tmp_path: Path, request: Any) -> None:
    composed: Subject = request.getfixturevalue(kind)
    (tmp_path / "saved").mkdir()
    composed.save(tmp_path / "saved")
    there = parts_of(tmp_path / "saved")
    away = {part: Path(shutil.move(file, tmp_path / f"{part}.safetensors")) for part, file in there.items()}
    assert set(away) == {"difference": {"baseline", "reinforced"}, "filtered": {"inner"}}[kind]
    again = adopted(tmp_path / "saved", memorised.base, tmp_path / "again", away)
    ids = torch.tensor([memorised.forget[0].ids[:20]], device=device())
    assert torch.equal(again.model(input_ids=ids).logits, composed.model(input_ids=ids).logits)
    prompts = [memorised.forget[0].ids[:20]]
    assert again.generate(prompts, 20) == composed.generate(prompts, 20)
    first = min(away)
    with pytest.raises(UserError, match=f"a part {first}, and no weights are told of it"):
        adopted(tmp_path / "saved", memorised.base, tmp_path / "less", {k: v for k, v in away.items() if k != first})


def test_parts_have_plain_names() -> None:
    assert weights_in({"files": {"subject.json": "s", MODEL: "a"}}) == {"": "a"}
    assert weights_in({"files": {f"inner/baseline/{MODEL}": "a", f"inner/reinforced/{MODEL}": "b"}}) == {
        "inner/baseline": "a",
        "inner/reinforced": "b",
    }
    for odd in ("../x", "a/../../b", "Inner", "a/b/c/d"):
        with pytest.raises(UserError, match="is no part of a model"):
            weights_in({"files": {f"{odd}/{MODEL}": "a"}})


def test_two_models_are_one_if_their_parts_and_the_way_of_combining_them_are() -> None:
    """Of a plain model `subject.json` says nothing: one that was taken over from another process has none."""

    def model(**files: str) -> Any:
        return _model(
            {"files": {name.replace("_", "/") + (f"/{MODEL}" if name != "subject.json" else ""): sha for name, sha in files.items()}}
        )

    assert _model({"files": {MODEL: "a", "subject.json": "x"}}) == _model({"files": {MODEL: "a"}}) != _model({"files": {MODEL: "b"}})
    whole = {"baseline": "a", "reinforced": "b", "subject.json": "x"}
    assert model(**whole) == model(**whole)
    assert all(model(**whole) != model(**whole | {name: "other"}) for name in whole)


@pytest.fixture(scope="module")
def made(memorised: Memorised, small_corpus: CorpusConfig, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A bundle of whp with weights, and its suite."""
    suite = replace(
        micro_suite(memorised.subject.folder, small_corpus, 8), attacks={"prefix": {}, "paraphrase": {}}, methods={"whp": {"epochs": 1}},
        quality=QualityConfig(("palimpsest_bits_per_byte",), documents=8),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("composed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "_checkout", lambda: (COMMIT, False))
        patch.setattr(schema, "has_commit", lambda commit: commit == COMMIT)
        row, told = own_row(suite, "whp", Store(folder / "store"))
        row.execute()
        said = Said("whp", ADDRESS, ADDRESS, today="2026-11-26", weights=True)
        assert list(problems(row, told, said, Reference(suite))) == []
        make(row, told, said, folder / "whp.zip")
        yield folder / "whp.zip", suite


def test_a_composed_row_agrees_up_to_the_spot_check(made: Any, tmp_path: Path) -> None:
    file, suite = made
    with opened(file) as b:
        assert set(b.info.weights) == {"0/baseline", "0/reinforced"} == set(b.entry.hashes.weights)
        assert {n for n in b.info.files if n.startswith("weights/")} == {f"weights/0/{p}/{MODEL}" for p in ("baseline", "reinforced")}
        found = list(verify(Case(b, suite, Options(seed=1, store=tmp_path / "none")), "spotcheck"))
    assert [f for _, f in found if f.agreed is False] == []
    assert any(f.what == "answers of whp" and f.agreed for _, f in found)


def swapped(f: Forger) -> None:
    """Other weights of one part, and every hash that is told of them made to fit."""
    name = f"weights/0/reinforced/{MODEL}"
    f.content[name] = save({k: v * 0.5 for k, v in load(f.content[name]).items()}, metadata={"format": "pt"})
    _tell(f, "0/reinforced", f.content[name])


def exchanged(f: Forger) -> None:
    """The parts in each other's place."""
    a, b = (f"weights/0/{part}/{MODEL}" for part in ("baseline", "reinforced"))
    f.content[a], f.content[b] = f.content[b], f.content[a]
    for part, name in (("0/baseline", a), ("0/reinforced", b)):
        _tell(f, part, f.content[name])


def _tell(f: Forger, key: str, content: bytes) -> None:
    sha = hashlib.sha256(content).hexdigest()
    f.info["weights"][key] = f.entry["hashes"]["weights"][key] = sha


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        (swapped, "schema", "is no model of these stages"),
        (exchanged, "rescore", "are not those of its stage"),
        (lambda f: f.content.pop(f"weights/0/baseline/{MODEL}"), "spotcheck", "weights of seed 0/baseline: neither in the bundle"),
        (lambda f: f.content.update({f"weights/0/Odd/{MODEL}": b"x" * 99}), "schema", "expected SEED/"),
        (
            lambda f: f.info["weights"].update({"0/../..": "0" * 64}) or f.entry["hashes"]["weights"].update({"0/../..": "0" * 64}),
            "schema",
            "is neither SEED nor SEED/PART",
        ),
    ],
)
def test_a_forged_part_is_caught(change: Callable[[Forger], Any], level: str, words: str, made: Any, tmp_path: Path) -> None:
    file, suite = made
    f = Forger.of(file)
    change(f)
    with opened(f.pack(tmp_path / "forged.zip")) as b:
        case = Case(b, suite, Options(seed=1, store=tmp_path / "none"), "spotcheck")
        found = [x.seen for x in checks_of(level)(case) if x.agreed is False]
    assert any(words in seen for seen in found), found
