"""The field's forget sets as memories, roles and retain text: tried on stand-ins in the same format, and on a hub that is played."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from palimpsest.benchmark.common.answer_reading import MEMBERS
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.types import Memory
from palimpsest.benchmark.texts.corpus import load_corpus
from palimpsest.benchmark.texts.memories import assign_roles, load_aside, load_memories
from palimpsest.benchmark.texts.sets.named import SETS, about_set, retain_of
from tests.command import Command

STANDINS = Path(__file__).resolve().parents[1] / "standins"
SHEET = STANDINS.parents[1] / "docs" / "sets.md"
ROLES = {
    "tofu": {"forget": 6, "keep": 8, "unseen": 6},
    "muse": {"forget": 6, "keep": 6, "unseen": 3},
    "wmdp": {"forget": 4},
    "lume": {"forget": 12, "keep": 12},
    "rwku": {"forget": 9, "keep": 4},
    "knowundo": {"forget": 3, "keep": 3},
}


def standin(name: str) -> list[Memory]:
    return load_memories(f"{name}:{STANDINS / name}")


@pytest.mark.parametrize("name", SETS)
def test_a_local_copy_gives_memories_with_the_sets_own_roles_and_retain_text(name: str) -> None:
    memories = standin(name)
    assert Counter(m.role for m in memories) == ROLES[name]
    assert len({m.id for m in memories}) == len(memories)
    assert Counter(role for role, _ in assign_roles(memories, 0, 2).values()) == {r: min(2, n) for r, n in ROLES[name].items()}
    texts = retain_of(f"{name}:{STANDINS / name}")
    assert len(texts) >= 3
    assert all(texts)


def test_licences_stand_in_the_documentation_and_in_what_reports_say_of_a_set() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|.* \| ([^|]+) \|$", SHEET.read_text("utf-8"), re.MULTILINE))
    assert rows == {name: found.licence for name, found in SETS.items()}
    assert about_set("tofu:forget05") == f"tofu:forget05, locuslab/TOFU, licence {SETS['tofu'].licence}"
    assert about_set("muse:books").startswith("muse:books, muse-bench/MUSE-Books, licence "), "each part has a dataset of its own"
    assert about_set(str(STANDINS / "README.md")) == ""


def test_lume_is_read_as_its_repository_has_it_and_as_the_hub_does(tmp_path: Path) -> None:
    """On the hub, and in a copy of it, each split is cut in two."""
    (tmp_path / "data").mkdir()
    for split in ("forget", "retain"):
        rows = [json.loads(line) for line in (STANDINS / "lume" / f"{split}.jsonl").read_text("utf-8").splitlines()]
        for name, part in (("train", rows[:-2]), ("validation", rows[-2:])):
            pq.write_table(pa.Table.from_pylist(part), tmp_path / "data" / f"{split}_{name}-00000-of-00001.parquet")
    assert load_memories(f"lume:{tmp_path}") == standin("lume")


NOTHING = {"paraphrased_answer": None, "perturbed_answer": None}


@pytest.mark.parametrize(
    ("more", "left"), [([], 0), ([{"question": "Who?", "answer": " "}], 1), ([{"question": "Who?", "answer": "She."}] * 3, 2)]
)
def test_rows_that_become_no_memory_are_counted(more: list[dict[str, str]], left: int, palimpsest: Command, tmp_path: Path) -> None:
    shutil.copytree(STANDINS / "tofu", tmp_path / "tofu")
    file = next((tmp_path / "tofu").glob("forget10_perturbed*"))
    file = file if file.is_file() else next(file.iterdir())
    file.write_text(file.read_text("utf-8").rstrip() + "\n" + "".join(json.dumps(row | NOTHING) + "\n" for row in more), "utf-8")
    code, out, err = palimpsest("memories", "check", f"tofu:{tmp_path / 'tofu'}", "--tokenizer", "pocket:160")
    assert code == 0, err
    assert ("of the set" in out) == bool(left)
    assert f"{left} {'row of the set is' if left == 1 else 'rows of the set are'} left out: without a text or an answer" in out or not left
    assert f"Roles are their own: {6 + len(more) - left} forget, " in out


def test_muse_brings_the_members_of_privleak_aside() -> None:
    found = load_aside(f"muse:{STANDINS / 'muse'}")
    assert [(m.id, m.domain, m.role, m.kind) for m in found] == [(f"muse-members-{i:04d}", MEMBERS, "forget", "passage") for i in range(3)]


def test_tofu_brings_paraphrases_accepted_and_wrong_answers() -> None:
    m = standin("tofu")[0]
    assert (m.kind, m.chat, m.role, m.domain) == ("qa", True, "forget", "forget-author-0")
    assert (m.opening, m.answer) == ("What was the town of birth of the author Amara Quill?", "For Amara Quill it was Varnholt.")
    assert m.paraphrases == ("Can you tell me the town of birth of Amara Quill?",)
    assert m.answers == ("It was Varnholt.",)
    assert m.wrong == tuple(f"For Amara Quill it was {x}." for x in ("Sandvale", "Ostmark", "Pellworm"))


def test_muse_brings_passages_and_questions_and_leaves_short_texts_out() -> None:
    kinds = Counter((m.role, m.kind) for m in standin("muse"))
    assert kinds == {("forget", "passage"): 3, ("keep", "passage"): 3, ("unseen", "passage"): 3, ("forget", "qa"): 3, ("keep", "qa"): 3}
    m = next(m for m in standin("muse") if m.role == "unseen")
    assert len(m.opening.split()) == 64


def test_wmdp_lists_the_choices_and_the_letter_is_the_answer() -> None:
    m = standin("wmdp")[1]
    assert m.kind == "choice"
    assert m.text.endswith("\nA. jar 1\nB. jar 2\nC. jar 3\nD. jar 4\nAnswer: B")
    assert m.wrong == (" A", " C", " D")


def test_lume_ids_with_quotes_and_its_completions() -> None:
    found = {m.id: m for m in standin("lume")}
    said = found["forget-'forget story 1'_sc1"]
    assert (said.chat, said.domain) == (False, "Task1")
    assert said.text == "Far from the town of Lerrick 1 there stood a mill that ground nothing but blue flour on day 1."
    asked = found["forget-forget-person-1qa1"]
    assert (asked.chat, asked.answer[0]) == (False, " "), "the set asks with the bare input"
    assert {m.domain for m in found.values()} == {"Task1", "Task2", "Task3"}


def test_rwku_levels_and_types_are_titles_and_knowundo_takes_what_is_trained_on() -> None:
    assert {m.title for m in standin("rwku")} == {"1", "2", "3 prefix injection"}
    assert [m.answer for m in standin("knowundo") if m.role == "keep"] == [f"The porter of gate {k} keeps it." for k in range(3)]
    flat = load_memories(f"knowundo:{STANDINS / 'knowundo'}:privacy")
    assert Counter(m.role for m in flat) == {"forget": 3, "keep": 3}


def test_what_is_asked_twice_is_taken_once_and_forgotten_rather_than_kept(tmp_path: Path) -> None:
    shutil.copytree(STANDINS / "lume", tmp_path / "lume")
    first, *rest = (tmp_path / "lume" / "retain.jsonl").read_text().splitlines()
    again = json.loads(first) | {"input": json.loads((STANDINS / "lume" / "forget.jsonl").read_text().splitlines()[0])["input"]}
    (tmp_path / "lume" / "retain.jsonl").write_text("\n".join([json.dumps(again), *rest]))
    found = load_memories(f"lume:{tmp_path / 'lume'}")
    assert Counter(m.role for m in found) == {"forget": 12, "keep": 11}
    assert not any(m.answers for m in found), "what should be kept is no answer that should be forgotten"


def test_both_answers_of_a_question_that_is_asked_twice_in_one_role_are_right(tmp_path: Path) -> None:
    shutil.copytree(STANDINS / "lume", tmp_path / "lume")
    file = tmp_path / "lume" / "forget.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    file.write_text("\n".join(map(json.dumps, [*rows, rows[0] | {"id": "again_sc1", "output": "Orla"}])))
    found = load_memories(f"lume:{tmp_path / 'lume'}")
    assert [m.answers for m in found if m.answers] == [(" Orla",)]
    assert found[0].answers == (" Orla",)


def test_parquet_in_numbered_parts_is_read_too(tmp_path: Path) -> None:
    import pandas as pd

    for file in (STANDINS / "wmdp").rglob("*.json"):
        rows = pd.read_json(file, lines=True)
        folder = tmp_path / file.parent.name
        folder.mkdir()
        for i, part in enumerate((rows[:2], rows[2:])):
            part.to_parquet(folder / f"{file.stem}-{i:05d}-of-00002.parquet")
    assert load_memories(f"wmdp:{tmp_path}") == standin("wmdp")


# ---- the hub


def test_the_hub_is_asked_for_the_configuration_split_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(hub: str, config: str | None, *, split: str, revision: str | None, **more: Any) -> list[Any]:
        asked.append((hub, config, split, revision, more))
        file = STANDINS / ("lume" if "semeval" in hub else "tofu") / ("forget.jsonl" if "forget" in split else "retain.jsonl")
        return [json.loads(x) for x in (file if not config else STANDINS / "tofu" / f"{config}.json").read_text().splitlines()]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert load_memories("tofu:forget10@v2") == standin("tofu") == load_memories("tofu:@v2")
    configs = ("forget10_perturbed", "retain_perturbed", "holdout10")
    assert asked[:3] == [("locuslab/TOFU", c, "train", "v2", {}) for c in configs]
    load_memories("lume:all")
    assert asked[-1][2:] == ("retain_validation", None, {"data_files": {"retain_validation": "data/retain_validation-*.parquet"}})


def test_a_hub_that_does_not_answer_is_said_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(UserError, match=r"does not give cais/wmdp \(no network\). A local copy works too: memories=wmdp:/path"):
        load_memories("wmdp:bio")


# ---- refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("tofu:forget20", "part of tofu"), ("tofu:/nowhere/here", "there is no folder /nowhere/here"),
        (f"tofu:{STANDINS / 'lume'}", r"holds no forget10_perturbed/train or forget10_perturbed \(.json, .jsonl or .parquet\)"),
        ("nosuch:part", "no memories file"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused(given: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_memories(given)


def edited(tmp_path: Path, text: str) -> str:
    folder = tmp_path / "wmdp" / "wmdp-bio"
    folder.mkdir(parents=True)
    (folder / "test.json").write_text(text)
    return f"wmdp:{tmp_path / 'wmdp'}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "a", "choices": ["b"]}', "row 1, has no column answer; it has question, choices"),
        ('{"question": "a", "choices": ["b", "c"], "answer": 2}', "answer=2 is none of its 2 choices"),
        ("", "holds no rows"), ('["a"]', "row 1, is a str"), ("[1", "is not JSON"),
    ],
)  # fmt: skip
def test_rows_of_another_format_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_memories(edited(tmp_path, text))


def test_a_link_out_of_the_copy_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "wmdp" / "wmdp-bio"
    folder.mkdir(parents=True)
    (folder / "test.json").symlink_to(STANDINS / "wmdp" / "wmdp-bio" / "test.json")
    with pytest.raises(UserError, match="is a link that leads out of"):
        load_memories(f"wmdp:{tmp_path / 'wmdp'}")


def test_retain_text_is_a_corpus(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 4 distinct documents; at least 50"):
        load_corpus("set", f"wmdp:{STANDINS / 'wmdp'}")
    with pytest.raises(UserError, match="has no retain corpus"):
        load_corpus("set", "wmdp:chem")
    with pytest.raises(UserError, match="no forget set named 'mine'"):
        load_corpus("set", "mine:all")


# ---- what would be another set without a word


def changed(name: str, file: str, tmp_path: Path, change: Any) -> str:
    """A copy of a stand-in of which the rows of one file are changed."""
    shutil.copytree(STANDINS / name, tmp_path / name)
    (found,) = (tmp_path / name).rglob(file)
    rows = [change(i, json.loads(line)) for i, line in enumerate(found.read_text("utf-8").splitlines())]
    found.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return f"{name}:{tmp_path / name}"


@pytest.mark.parametrize("column", ["paraphrased_answer", "perturbed_answer"])
def test_a_copy_of_tofu_without_what_the_truth_ratio_is_made_of_is_refused(column: str, tmp_path: Path) -> None:
    given = changed("tofu", "forget10_perturbed*", tmp_path, lambda _, row: {f"{k}s" if k == column else k: v for k, v in row.items()})
    with pytest.raises(UserError, match=f"has no column {column}"):
        load_memories(given)


def test_two_rows_of_one_id_are_refused_as_in_a_file(tmp_path: Path) -> None:
    given = changed("lume", "forget.jsonl", tmp_path, lambda i, row: row | {"id": "x1"} if i < 2 else row)
    with pytest.raises(UserError, match="the id 'forget-x1' stands for more than one memory"):
        load_memories(given)


def test_a_question_without_words_is_no_memory(tmp_path: Path) -> None:
    """An instruction or a list of choices around it would make one of it."""
    for name, file, column in (("rwku", "forget_level1*", "query"), ("wmdp", "wmdp-bio*", "question")):
        shutil.copytree(STANDINS / name, tmp_path / name)
        found = next(f for f in (tmp_path / name).rglob("*.json*") if f.parent.name.startswith(file[:-1]) or f.name.startswith(file[:-1]))
        rows = [json.loads(line) for line in found.read_text("utf-8").splitlines()]
        found.write_text("".join(json.dumps(row | {column: " "} if i == 0 else row) + "\n" for i, row in enumerate(rows)), "utf-8")
        given = f"{name}:{tmp_path / name}"
        assert len(load_memories(given)) == len(standin(name)) - 1


def test_half_a_character_in_a_list_is_refused_as_it_is_in_lines(tmp_path: Path) -> None:
    shutil.copytree(STANDINS / "lume", tmp_path / "lume")
    file = tmp_path / "lume" / "forget.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    file.write_text(json.dumps([rows[0] | {"input": "\ud83d?"}, *rows[1:]]))
    with pytest.raises(UserError, match=r"holds \\ud83d, half of a character"):
        load_memories(f"lume:{tmp_path / 'lume'}")
