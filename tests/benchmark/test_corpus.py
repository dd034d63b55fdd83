"""The corpus: near-duplicates stay on one side, the manifest freezes it, and other text can take its place."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.texts import corpus as module
from palimpsest.benchmark.texts.corpus import Corpus, load_corpus, pack, packed, residual_overlap, split_documents, write_manifest
from palimpsest.benchmark.texts.docstrings import digest, harvest
from tests.benchmark.made_up_texts import DOCUMENTS, text, variant


def keyed(texts: list[str]) -> dict[str, str]:
    return {digest(t): t for t in texts}


# ---- the split


def test_near_duplicates_go_to_one_side() -> None:
    documents = DOCUMENTS + [variant(i) for i in range(300)]
    side = split_documents(keyed(documents))
    assert set(side) == {digest(t) for t in documents}
    pairs = [(side[digest(text(i))], side[digest(variant(i))]) for i in range(300)]
    assert all(a == b for a, b in pairs)
    assert {a for a, _ in pairs} == {"train", "valid", "quality"}, "if no pair is held out, nothing was tried"


def test_a_large_cluster_is_for_training() -> None:
    for k in range(40):
        family = [" ".join(text(k).split()[:50]) + " " + text(1000 + 10 * k + j, 10) for j in range(5)]
        assert set(split_documents(keyed(family + DOCUMENTS[100:110])).values()) >= {"train"}
        assert {split_documents(keyed(family))[digest(t)] for t in family} == {"train"}


def test_held_out_texts_that_mostly_stand_in_train_go_back() -> None:
    """They escape clustering when their runs are spread over many texts that do not resemble each other."""
    side = split_documents(keyed(DOCUMENTS))
    held = [t for t in DOCUMENTS if side[digest(t)] != "train"]
    assert held
    victim = held[0]
    spread = victim.split()
    # each stock run stands in 70 texts, too common to link; together they are the whole victim
    copies = [" ".join(spread[a : a + 15]) + " " + text(20_000 + 100 * a + j, 60) for a in range(0, 60, 10) for j in range(70)]
    after = split_documents(keyed(DOCUMENTS + copies))
    assert after[digest(victim)] == "train"


def test_a_documents_side_does_not_depend_on_its_neighbours() -> None:
    few, many = split_documents(keyed(DOCUMENTS[:200])), split_documents(keyed(DOCUMENTS))
    assert few.items() <= many.items()
    shares = [sum(s == name for s in many.values()) / 600 for name in ("valid", "quality")]
    assert 0.005 < shares[0] < 0.04
    assert 0.01 < shares[1] < 0.06


# ---- the manifest


@pytest.fixture
def frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], Corpus]:
    """Freezes 600 documents, then loads the corpus where only some of them are installed."""
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "CONFIGS", tmp_path)
    monkeypatch.setattr(module, "harvest", lambda *packages: dict(sorted(keyed(DOCUMENTS).items())))
    write_manifest(tmp_path / "corpus" / "docstrings.manifest")

    def load(installed: list[str]) -> Corpus:
        monkeypatch.setattr(module, "harvest", lambda *packages: dict(sorted(keyed(installed).items())))
        monkeypatch.setattr(module, "versions", lambda: {"here": digest("".join(installed))})
        return load_corpus()

    return load


def test_the_manifest_gives_back_what_was_frozen_in_its_order(frozen: Callable[[list[str]], Corpus]) -> None:
    corpus = frozen(DOCUMENTS)
    assert (corpus.coverage, corpus.comparable) == (1.0, True)
    side = split_documents(keyed(DOCUMENTS))
    for split, texts in corpus.splits.items():
        assert texts == sorted((t for t in DOCUMENTS if side[digest(t)] == split), key=digest)


def test_texts_that_the_manifest_does_not_name_are_left_out(frozen: Callable[[list[str]], Corpus]) -> None:
    assert frozen([*DOCUMENTS, text(9999)]) == frozen(DOCUMENTS)


@pytest.mark.parametrize(("missing", "comparable"), [(30, True), (31, False)])
def test_coverage_below_95_percent_is_marked(missing: int, comparable: bool, frozen: Callable[[list[str]], Corpus]) -> None:
    corpus = frozen(DOCUMENTS[missing:])
    assert corpus.coverage == pytest.approx(1 - missing / 600)
    assert corpus.comparable == comparable
    assert corpus.key != frozen(DOCUMENTS).key


def test_the_cached_corpus_is_read_and_not_harvested_again(frozen: Callable[[list[str]], Corpus], monkeypatch: pytest.MonkeyPatch) -> None:
    first = frozen(DOCUMENTS)
    monkeypatch.setattr(module, "harvest", lambda *packages: pytest.fail("harvested again"))
    assert load_corpus() == first


def test_a_missing_manifest_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONFIGS", tmp_path)
    with pytest.raises(UserError, match=r"manifest .* is missing"):
        load_corpus()


def test_the_shipped_manifest_names_every_document_once() -> None:
    lines = (module.CONFIGS / "corpus" / "docstrings.manifest").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    assert len(rows) > 10_000
    assert [key for key, _ in rows] == sorted({key for key, _ in rows})
    assert {letter for _, letter in rows} == {"t", "v", "q"}
    assert json.loads(lines[0].removeprefix("# "))["manifest"] == 1


def test_the_residual_overlap_counts_runs_of_held_out_texts_in_train() -> None:
    half = " ".join(text(1).split()[:34]) + " " + text(500, 26)
    corpus = Corpus("made-up", {"train": [text(1), text(2)], "valid": [text(3), half], "quality": [text(1)]}, 1.0, "k")
    found = residual_overlap(corpus)
    assert found["valid"] == {"documents": 2, "mean_share": pytest.approx(27 / 53 / 2), "mostly_in_train": 0.5}
    assert found["quality"] == {"documents": 1, "mean_share": 1.0, "mostly_in_train": 1.0}


# ---- other sources


def write_folder(folder: Path, texts: list[str]) -> Path:
    (folder / "deep").mkdir(parents=True)
    for i, t in enumerate(texts):
        (folder / ("deep" if i % 2 else ".") / f"{i}.{'md' if i % 3 else 'txt'}").write_text(t + "\n\n")
    (folder / "ignored.py").write_text(text(77_777))
    return folder


def write_jsonl(file: Path, texts: list[str], field: str = "text") -> Path:
    file.write_text("".join(json.dumps({field: t}) + "\n" for t in texts))
    return file


def test_a_folder_a_file_and_a_dataset_of_the_same_texts_are_the_same_corpus(tmp_path: Path) -> None:
    texts = [*DOCUMENTS[:300], DOCUMENTS[0], "   "]
    saved = datasets.DatasetDict(
        {"a": datasets.Dataset.from_dict({"body": texts[:100]}), "b": datasets.Dataset.from_dict({"body": texts[100:]})}
    )
    saved.save_to_disk(str(tmp_path / "set"))
    loaded = [
        load_corpus("text", str(write_folder(tmp_path / "folder", texts))),
        load_corpus("jsonl", str(write_jsonl(tmp_path / "all.jsonl", texts))),
        load_corpus("datasets", str(tmp_path / "set"), "body"),
    ]
    assert loaded[0].splits == loaded[1].splits == loaded[2].splits
    assert len({c.key for c in loaded}) == 1
    assert sum(len(s) for s in loaded[0].splits.values()) == 300
    assert all(c.comparable for c in loaded)
    assert [c.name.partition(":")[0] for c in loaded] == ["text", "jsonl", "datasets"]


@pytest.mark.parametrize(
    ("source", "make", "message"),
    [
        ("docstring", lambda d: "x", "no corpus source named 'docstring'. Did you mean 'docstrings'"),
        ("text", lambda d: None, "needs corpus.path"),
        ("text", lambda d: str(d / "nowhere"), "is not a folder of .txt or .md files"),
        ("text", lambda d: str(write_folder(d / "f", DOCUMENTS[:49] * 2)), "has 49 distinct documents; at least 50"),
        ("jsonl", lambda d: str(d), "is not a file; expected JSON lines"),
        ("jsonl", lambda d: str(write_jsonl(d / "x.jsonl", DOCUMENTS[:60], "body")), "x.jsonl:1 is not a JSON object with a 'text' field"),
        ("jsonl", lambda d: str(write_jsonl(d / "x.jsonl", [*DOCUMENTS[:60], 5])), "should hold texts; found 5"),  # type: ignore[list-item]
        ("datasets", lambda d: str(d), "neither a saved dataset nor"),
    ],
)
def test_a_corpus_that_cannot_be_read_says_why(source: str, make: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_corpus(source, make(tmp_path))
    assert message in str(error.value)


def test_a_dataset_without_the_field_lists_its_fields(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"body": DOCUMENTS[:60], "n": list(range(60))}).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(UserError, match="has no field 'text'; it has body, n"):
        load_corpus("datasets", str(tmp_path / "set"))
    with pytest.raises(UserError, match=r"'n' .*should hold texts; found 0"):
        load_corpus("datasets", str(tmp_path / "set"), "n")


# ---- docstrings


def test_docstrings_are_read_without_importing_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "harvested_package"
    (package / "inner").mkdir(parents=True)
    long = "Says something that is long enough to be a text rather than a label.\n\n    " + "It goes on and on. " * 10
    alarm = f"open({str(tmp_path / 'imported')!r}, 'w')\nraise RuntimeError\n"
    (package / "__init__.py").write_text(f'"""{long} (module)"""\n{alarm}')
    (package / "inner" / "code.py").write_text(
        f'{alarm}class A:\n    """{long} (class)"""\n'
        f'    async def f(self):\n        """{long} (function)"""\n        x = """{long} (no docstring)"""\n'
        f'def short():\n    """Short."""\n'
    )
    (package / "inner" / "template.py").write_text("def {{ name }}(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = harvest(["harvested_package", "no_such_package_here"], workers=1)
    assert sorted(t[t.rindex("(") :] for t in found.values()) == ["(class)", "(function)", "(module)"]
    assert all(t.startswith("Says something") and "\n\nIt goes on" in t for t in found.values()), "indentation is taken off"
    assert list(found) == sorted(digest(t) for t in found.values())
    assert not (tmp_path / "imported").exists()
    assert "harvested_package" not in sys.modules


# ---- tokens


def test_packing_ends_every_text_and_keeps_all_of_it(tokenizer: Any) -> None:
    texts = ["One text.", "", "Another: über\n"]
    ids = pack(texts, tokenizer, 0)
    assert ids.dtype == np.uint32
    assert [tokenizer.decode(part) for part in np.split(ids, np.flatnonzero(ids == 0) + 1)[:-1]] == [t + "<|endoftext|>" for t in texts]


def test_packed_tokens_are_kept_in_the_cache(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path))
    corpus = Corpus("made-up", {"train": DOCUMENTS[:5], "valid": [], "quality": []}, 1.0, "key")
    first = packed(corpus, "train", tokenizer, 0, "t")
    assert (first == pack(DOCUMENTS[:5], tokenizer, 0)).all()
    monkeypatch.setattr(module, "pack", lambda *_: pytest.fail("packed again"))
    assert (packed(corpus, "train", tokenizer, 0, "t") == first).all()
    assert [f.name for f in (tmp_path / "tokens").iterdir()] == ["key-t-train.npy"]
