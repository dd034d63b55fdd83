"""Odd rows of a set, files that may be meant alike, and revisions: right, or refused by file, row and column."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.texts.memories import load_aside, load_memories
from palimpsest.benchmark.texts.sets.named import retain_of

STANDINS = Path(__file__).resolve().parents[1] / "standins"
ABSENT = object()


def changed(tmp_path: Path, file: str, **columns: Any) -> str:
    """A copy of a set's stand-in whose file (JSON lines) has other values in its second row, or in its only one; what to name it."""
    name = file.partition("/")[0]
    shutil.copytree(STANDINS / name, tmp_path / name)
    target = tmp_path / file
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    row = rows[min(1, len(rows) - 1)]
    row |= columns
    for column in [c for c, value in columns.items() if value is ABSENT]:
        del row[column]
    target.write_text("\n".join(map(json.dumps, rows)))
    return f"{name}:{tmp_path / name}"


@pytest.mark.parametrize(
    ("file", "column", "value", "load"),
    [
        ("lume/forget.jsonl", "id", 7, load_memories),
        ("lume/forget.jsonl", "input", None, load_memories),
        ("lume/retain.jsonl", "output", ["a", "b"], load_memories),
        ("lume/forget.jsonl", "task", None, load_memories),
        ("lume/retain.jsonl", "input", None, retain_of),
        ("muse/verbmem/forget.json", "prompt", None, load_memories),
        ("muse/verbmem/forget.json", "gt", 5, load_memories),
        ("muse/privleak/holdout.json", "text", None, load_memories),
        ("muse/privleak/forget.json", "text", None, load_aside),
        ("muse/knowmem/forget_qa.json", "answer", None, load_memories),
        ("muse/raw/retain1.json", "text", None, retain_of),
        ("tofu/forget10_perturbed.json", "question", None, load_memories),
        ("tofu/forget10_perturbed.json", "perturbed_answer", ["a", None], load_memories),
        ("tofu/forget10_perturbed.json", "paraphrased_answer", 3, load_memories),
        ("tofu/world_facts_perturbed.json", "perturbed_answer", None, load_aside),
        ("tofu/retain90.json", "question", None, retain_of),
        ("tofu/retain90.json", "answer", None, retain_of),
        ("rwku/forget_level2/test.json", "subject", None, load_memories),
        ("rwku/forget_level2/test.json", "answer", None, load_memories),
        ("rwku/mia_retain/test.json", "text", None, retain_of),
        ("wmdp/wmdp-bio/test.json", "question", None, load_memories),
        ("wmdp/wmdp-bio/test.json", "choices", None, load_memories),
        ("wmdp/wmdp-bio/test.json", "choices", ["a", None, "b", "c"], load_memories),
        ("wmdp/wmdp-bio/test.json", "answer", None, load_memories),
        ("wmdp/bio-retain-corpus/train.json", "text", None, retain_of),
    ],
)
def test_a_value_that_is_no_text_is_refused_by_file_row_and_column(
    file: str, column: str, value: Any, load: Callable[[str], Any], tmp_path: Path
) -> None:
    named = changed(tmp_path, file, **{column: value})
    with pytest.raises(UserError, match=rf"{re.escape(str(tmp_path / file))}, row 2, column {column}: ") as error:
        load(named)
    assert str(value)[:9] in str(error.value)


@pytest.mark.parametrize("value", [None, [], ["a"], "a", {"text": "a"}])
def test_pairs_of_knowundo_that_are_no_list_of_rows_are_refused(value: Any, tmp_path: Path) -> None:
    named = changed(tmp_path, "knowundo/copyright/unlearn.json", train=value)
    with pytest.raises(UserError, match=r"copyright/unlearn.json, row 1, column train: .*: expected a list of rows, at least one"):
        load_memories(named)


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ({"labels": "b"}, "row 1, train 2, has no column text; it has labels"),
        ({"text": "a", "labels": None}, "row 1, train 2, column labels: None: expected a text"),
        ({"text": None, "labels": "b"}, "row 1, train 2, column text: None: expected a text"),
    ],
)
def test_a_pair_of_knowundo_without_its_texts_is_refused(pair: dict[str, Any], said: str, tmp_path: Path) -> None:
    named = changed(tmp_path, "knowundo/copyright/retention.json", train=[{"text": "a", "labels": "b"}, pair])
    for load in (load_memories, retain_of):
        with pytest.raises(UserError, match=said):
            load(named)


def test_a_row_of_knowundo_with_neither_pairs_nor_texts_is_refused(tmp_path: Path) -> None:
    named = changed(tmp_path, "knowundo/copyright/retention.json", train=ABSENT)
    with pytest.raises(UserError, match="row 1, has no column text; it has val"):
        retain_of(named)


def test_texts_that_a_row_need_not_have_may_be_null_and_a_list_of_one_is_a_text(tmp_path: Path) -> None:
    bare = {"paraphrased_question": None, "paraphrased_answer": [], "perturbed_answer": [["No."], "Never."]}
    named = changed(tmp_path, "tofu/forget10_perturbed.json", answer=["Low Tide."], **bare)
    m = load_memories(named)[1]
    assert (m.answer, m.answers, m.paraphrases, m.wrong) == ("Low Tide.", (), (), ("No.", "Never."))


def test_a_number_may_name_a_group(tmp_path: Path) -> None:
    assert load_memories(changed(tmp_path, "lume/forget.jsonl", task=2))[1].domain == "2"


def test_a_row_of_the_hub_is_named_by_its_split_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": "a", "choices": ["b", "c"], "answer": 1}, {"question": None, "choices": ["b", "c"], "answer": 1}]
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda *_, **__: rows))
    with pytest.raises(UserError, match="wmdp: wmdp-bio/test of cais/wmdp at v2, row 2, column question: None: expected a text"):
        load_memories("wmdp:bio@v2")


# ---- revisions


def test_a_revision_is_of_the_set_that_it_names_and_of_no_other_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def load_dataset(hub: str, *_: Any, revision: str | None, **__: Any) -> list[Any]:
        asked.append((hub, revision))
        return [{"text": "a"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert retain_of("wmdp:bio@v2") == retain_of("muse:books@v3") == ["a"]
    assert asked == [("cais/wmdp-corpora", None), ("muse-bench/MUSE-Books", "v3")]


# ---- which file


def copied(tmp_path: Path, name: str, *others: str) -> str:
    """A copy of a set with one of its files under other names too."""
    folder, _, _ = name.partition("/")
    shutil.copytree(STANDINS / folder, tmp_path / folder)
    for other in others:
        (tmp_path / folder / other).parent.mkdir(exist_ok=True)
        shutil.copy(STANDINS / name, tmp_path / folder / other)
    return f"{folder}:{tmp_path / folder}"


@pytest.mark.parametrize(
    "other",
    [
        "forget10_perturbed-train.json", "forget10_perturbed_train.json", "forget10_perturbed/train.json", "forget10_perturbed.jsonl",
        "forget10_perturbed-00000-of-00001.json",
    ],
)  # fmt: skip
def test_two_files_that_may_each_be_the_split_are_refused_by_name(other: str, tmp_path: Path) -> None:
    named = copied(tmp_path, "tofu/forget10_perturbed.json", other)
    with pytest.raises(UserError, match="each may be forget10_perturbed/train; leave one of them there") as error:
        load_memories(named)
    assert other in str(error.value)
    assert "forget10_perturbed.json" in str(error.value)


def test_a_copy_without_all_parts_of_a_file_is_refused(tmp_path: Path) -> None:
    named = copied(tmp_path, "tofu/forget10_perturbed.json", "forget10_perturbed-00001-of-00002.json")
    (tmp_path / "tofu" / "forget10_perturbed.json").unlink()
    with pytest.raises(UserError, match=r"holds 1 of the 2 parts of forget10_perturbed.json; copy the others too"):
        load_memories(named)


def test_a_file_of_a_whole_configuration_is_not_taken_for_each_of_its_splits(tmp_path: Path) -> None:
    named = copied(tmp_path, "knowundo/privacy/unlearn.json", "privacy.json")
    shutil.rmtree(tmp_path / "knowundo" / "privacy")
    with pytest.raises(UserError, match="holds no privacy/unlearn"):
        load_memories(f"{named}:privacy")
