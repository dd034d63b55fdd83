"""What real copies of the sets are like, which the stand-ins were not: texts cut anywhere, other names, files that are not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import Memory
from palimpsest.benchmark.texts.corpus import load_corpus
from palimpsest.benchmark.texts.memories import encode, load_memories
from palimpsest.benchmark.texts.sets.named import retain_of

STANDINS = Path(__file__).resolve().parents[1] / "standins"
WORDS = [f"word{i}" for i in range(300)]
BEFORE, AFTER = " ".join(WORDS[:200]), " ".join(WORDS[200:])


def copy(name: str, to: Path) -> Path:
    shutil.copytree(STANDINS / name, to / name)
    return to / name


def muse(to: Path, prompt: str, rest: str, whole: str = "") -> Memory:
    """The one passage to forget of a copy of MUSE; `whole` is the text that it was cut from."""
    folder = copy("muse", to)
    (folder / "verbmem" / "forget.json").write_text(json.dumps([{"prompt": prompt, "gt": rest}]))
    if whole:
        (folder / "raw" / "forget.json").write_text(json.dumps([{"text": "Something else. " * 30}, {"text": whole}]))
    return next(m for m in load_memories(f"muse:{folder}") if m.kind == "passage" and m.role == "forget")


def test_of_a_long_prompt_of_verbmem_the_last_64_words_are_the_opening(tmp_path: Path, tokenizer: Any) -> None:
    m = muse(tmp_path, BEFORE, AFTER, f"{BEFORE} {AFTER}")
    assert m.text == " ".join(WORDS[136:])
    assert m.opening.split() == WORDS[136:200]
    assert encode(m, tokenizer, 320).memory is m


@pytest.mark.parametrize(
    ("prompt", "gap", "rest", "opening", "answer"),
    [
        (f"{BEFORE} who hadn", "", f"'t had any {AFTER}", "who", " hadn't had"),
        (f"{BEFORE} the co", "", f"-leader {AFTER}", "the", " co-leader"),
        (f"{BEFORE} ad", "", f"here to {AFTER}", "word199", " adhere to"),
        (f"{BEFORE} one.", "\n\n", f"Two {AFTER}", "one.", "\n\nTwo"),
        (f"{BEFORE} one.\n", "", f"Two {AFTER}", "one.", "\nTwo"),
        (f"{BEFORE} one", " ", f"two {AFTER}", "one", " two"),
    ],
)  # fmt: skip
def test_where_a_text_was_cut_is_looked_up_and_the_opening_ends_with_a_word(
    prompt: str, gap: str, rest: str, opening: str, answer: str, tmp_path: Path, tokenizer: Any
) -> None:
    m = muse(tmp_path, prompt, rest, f"Before it. {prompt}{gap}{rest} And behind it.")
    assert m.text.endswith(prompt.split(" ", 180)[-1] + gap + rest)
    assert m.opening.endswith(opening)
    assert m.answer.startswith(answer)
    assert encode(m, tokenizer, 320).memory is m


def test_where_the_whole_text_is_not_there_the_opening_ends_behind_the_cut(tmp_path: Path) -> None:
    m = muse(tmp_path, f"{BEFORE} who hadn", f"'t had any {AFTER}")
    assert m.opening.endswith("who hadn 't")
    assert m.answer.startswith(" had any")


@pytest.mark.parametrize(("prompt", "rest"), [(" ", AFTER), ("hadn", f"'t had any {AFTER}"), (BEFORE, "Once"), (BEFORE, " ")])
def test_a_text_without_an_opening_or_a_continuation_is_left_out(prompt: str, rest: str, tmp_path: Path) -> None:
    folder = copy("muse", tmp_path)
    (folder / "raw" / "forget.json").write_text(json.dumps([{"text": f"{prompt}{rest}"}]))
    rows = [{"prompt": p, "gt": r} for p, r in ((prompt, rest), (f"Whole. {BEFORE}", AFTER))]
    (folder / "verbmem" / "forget.json").write_text(json.dumps(rows))
    found = [m.id for m in load_memories(f"muse:{folder}") if m.kind == "passage" and m.role == "forget"]
    assert found[-1] == "muse-verbmem-0001"
    assert len(found) == 1 + (prompt == BEFORE and rest == "Once")


def test_retain_text_of_a_few_long_pages_is_cut_into_documents(tmp_path: Path) -> None:
    folder = copy("muse", tmp_path)
    pages = [{"text": "".join(f"Page {p}, line {i}, says {i * 7919 + p} and no more than that.\n" for i in range(900))} for p in range(3)]
    (folder / "raw" / "retain1.json").write_text(json.dumps(pages))
    texts = retain_of(f"muse:{folder}")
    assert "".join(texts) == "".join(p["text"] for p in pages)
    assert max(map(len, texts)) <= 2000
    assert len(load_corpus("set", f"muse:{folder}").train) > 30


def test_rwku_leaves_questions_out_that_list_their_answers_and_says_what_a_gap_is_for(tmp_path: Path) -> None:
    folder = copy("rwku", tmp_path)
    (file,) = (f for f in folder.rglob("*") if f.is_file() and "forget_level3" in str(f))
    lines = file.read_text().splitlines()
    listed = json.loads(lines[0]) | {"query": "Which of these, a mill or a boat?", "type": "multiple choice"}
    file.write_text("\n".join([*lines, json.dumps(listed)]))
    found = load_memories(f"rwku:{folder}")
    assert len(found) == len(load_memories(f"rwku:{STANDINS / 'rwku'}"))
    assert {m.opening.startswith("Fill in the gap") for m in found if m.title.startswith("1")} == {True}


def test_knowundo_as_its_repository_names_the_files(tmp_path: Path) -> None:
    folder = copy("knowundo", tmp_path)
    for name in ("unlearn", "retention"):
        (folder / "privacy" / f"{name}.json").rename(folder / "privacy" / f"{name}_train.json")
    assert load_memories(f"knowundo:{folder}:privacy") == load_memories(f"knowundo:{STANDINS / 'knowundo'}:privacy")


def test_a_copy_of_tofu_without_holdout_has_nothing_never_seen(tmp_path: Path) -> None:
    folder = copy("tofu", tmp_path)
    gone = [f for f in folder.rglob("*") if f.is_file() and "holdout" in str(f)]
    for file in gone:
        file.unlink()
    assert gone
    assert {m.role for m in load_memories(f"tofu:{folder}")} == {"forget", "keep"}


def test_lists_one_after_another_are_one_and_what_is_none_is_refused(tmp_path: Path) -> None:
    folder = copy("knowundo", tmp_path)
    file = folder / "privacy" / "unlearn.json"
    rows = json.loads(file.read_text())
    file.write_text("\n" + "\n".join(json.dumps([row]) for row in rows) + "\n")
    assert load_memories(f"knowundo:{folder}:privacy") == load_memories(f"knowundo:{STANDINS / 'knowundo'}:privacy")
    file.write_text(json.dumps(rows) + '\n{"text": "a"}')
    with pytest.raises(UserError, match="is not JSON: expected a list at character"):
        load_memories(f"knowundo:{folder}:privacy")
