"""What of a forget set a model and a row cannot be asked is left out and counted; a file of one's own is refused for it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.texts.memories import load_memories, memories_hash
from palimpsest.benchmark.texts.usable import must_hold, usable
from tests.benchmark.test_tokenizers import made_once
from tests.command import Command
from tests.questions import fact, write

STANDINS = Path(__file__).resolve().parents[1] / "standins"
LONG = {"id": "long_sc1", "input": "word " * 200, "output": "Yes", "task": "Task2"}
AGAIN = {"id": "again_sc1", "input": "Who said it first, and to whom?", "output": "Nobody", "task": "Task2"}


def lume(tmp_path: Path, forget: list[dict[str, str]], retain: list[dict[str, str]]) -> str:
    """A copy of the stand-in with further rows."""
    shutil.copytree(STANDINS / "lume", tmp_path / "lume")
    for name, rows in (("forget", forget), ("retain", retain)):
        with (tmp_path / "lume" / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return f"lume:{tmp_path / 'lume'}"


def test_a_row_that_does_not_fit_is_left_out_of_a_set_with_its_reason(tokenizer: Any, tmp_path: Path) -> None:
    every = load_memories(lume(tmp_path, [LONG], [LONG | {"id": "kept_sc1", "input": "other " * 200}]))
    kept, out = usable(every, tokenizer, 160)
    assert list(out) == ["forget-long_sc1", "retain-kept_sc1"]
    assert "do not fit a row of 160 tokens" in out["forget-long_sc1"]
    assert kept == [m for m in every if m.id not in out]
    assert usable(every, tokenizer, 1000) == (every, {})


def test_of_two_that_say_the_same_what_is_to_be_forgotten_stays(tokenizer: Any, tmp_path: Path) -> None:
    """The adapter knows questions that are the same as it is given them; a template may make more of them the same."""
    file = [fact(i, role="keep" if i % 2 else "forget") for i in range(12)]
    file[3]["prompt"] = file[4]["prompt"].upper()
    every = sorted(load_memories(write(tmp_path / "a.jsonl", file)), key=lambda m: m.role != "forget")
    kept, out = usable(every, tokenizer, 160)
    assert out == {file[3]["id"]: f"Memory {file[3]['id']!r}: {file[4]['id']!r} is there, and they ask the same."}
    assert len(kept) == 11


def test_a_row_that_makes_another_set_of_it_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    every = load_memories(lume(tmp_path, [LONG], []))
    forget = [m for m in every if m.role == "forget"]
    assert len(usable(forget[-10:], tokenizer, 160)[0]) == 9
    with pytest.raises(UserError, match=r"1 of 9 memories to forget make no row of 160 tokens\. Memory 'forget-long_sc1': prompt"):
        usable(forget[-9:], tokenizer, 160)
    with pytest.raises(UserError, match=r"13 of 13 memories to forget make no row of 20 tokens"):
        usable(every, tokenizer, 20)


def test_the_check_names_what_is_left_out_and_refuses_too_small_a_row(palimpsest: Command, tmp_path: Path) -> None:
    given = lume(tmp_path, [LONG], [LONG | {"id": f"kept{i}_sc1", "input": f"{i} " * 200} for i in range(6)])
    code, out, err = palimpsest("memories", "check", given)
    assert (code, err) == (0, "")
    assert "Under pocket with a row of 160, 7 memories are left out:\n  Memory 'forget-long_sc1': prompt" in out
    assert "  and 2 more\n24 memories" in out
    code, out, err = palimpsest("memories", "check", given, "--tokenizer", "pocket:20")
    assert (code, err) == (1, "Error: 1 fault in 31 memories: such a set cannot be run.\n")
    assert "Under pocket: 13 of 13 memories to forget make no row of 20 tokens." in out


def test_a_run_asks_the_others(observed: Run, tmp_path: Path) -> None:
    shutil.copytree(STANDINS / "tofu", tmp_path / "tofu")
    (file,) = (p for p in (tmp_path / "tofu").rglob("*") if p.is_file() and "forget10_perturbed" in str(p))
    suite = replace(observed.suite, memories=f"tofu:{tmp_path / 'tofu'}")
    plain, first = Run(suite, observed.store), json.loads(file.read_text("utf-8").splitlines()[0])
    assert plain.left_out == {}
    assert memories_hash(plain.memories) == memories_hash(observed.memories)

    def add(*asked: str) -> None:
        with file.open("a", encoding="utf-8") as end:
            end.writelines(json.dumps({**first, "question": q, "answer": f"Street {i}"}) + "\n" for i, q in enumerate(asked))

    add("word " * 200)
    with pytest.raises(UserError, match="1 of 7 memories to forget make no row of 96"):
        _ = Run(suite, observed.store).memories
    add(*(f"Which street is number {i} of the list?" for i in range(8)))
    run = Run(suite, observed.store)
    assert list(run.left_out) == ["tofu-forget10_perturbed-0006"]
    assert len(run.memories) == len(plain.memories) + 8


def test_texts_are_the_same_within_some_row_though_a_longer_one_tells_them_apart(tokenizer: Any, tmp_path: Path) -> None:
    text = " ".join(f"the lamp {i} of the quay burnt {i * 7} nights" for i in range(40))
    rows = [{"id": f"m{i}", "domain": "d", "text": text + f" and then it went out {i} " * 40, "opening_end": 8} for i in range(2)]
    memories = load_memories(write(tmp_path / "a.jsonl", rows))
    short, long = ("short", (tokenizer, 96)), ("long", (tokenizer, 600))
    assert len(must_hold(memories, dict([short]))) == 1
    assert must_hold(memories, dict([short, long])) == must_hold(memories, dict([long, short])) == must_hold(memories, dict([short]))


def test_what_the_tokenizer_does_not_give_back_is_one_fault_of_many_and_of_a_set_left_out(
    palimpsest: Command, tiny: Subject, tmp_path: Path
) -> None:
    shutil.copytree(tiny.folder, tmp_path / "model")
    made_once("Unigram").save_pretrained(tmp_path / "model")
    at = ("--tokenizer", f"{tmp_path / 'model'}:160")
    odd = "The lamp \u2602 of the sea"
    rows = [fact(i, prompt=f"{odd} {i}") for i in range(2)] + [fact(i) for i in range(2, 9)]
    code, out, _ = palimpsest("memories", "check", str(write(tmp_path / "a.jsonl", rows)), *at)
    assert code == 1
    assert {i for i in range(2) if f"'fact-{i:02d}'" in out and "does not round-trip" in out} == {0, 1}
    shutil.copytree(STANDINS / "rwku", tmp_path / "rwku")
    file = next(f for f in (tmp_path / "rwku").rglob("*") if f.is_file() and "neighbor_level1" in str(f))
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    file.write_text("\n".join(map(json.dumps, [lines[0] | {"query": odd}, *lines[1:]])))
    _, out, _ = palimpsest("memories", "check", f"rwku:{tmp_path / 'rwku'}", *at)
    assert "9 of 9 memories to forget make no row" in out, "most say nothing that this tokenizer gives back"
    assert "does not round-trip" in out


def test_a_model_is_checked_with_every_row_that_is_named(palimpsest: Command, tmp_path: Path) -> None:
    file = str(write(tmp_path / "a.jsonl", [fact(i) for i in range(9)]))
    code, _, err = palimpsest("memories", "check", file, "--tokenizer", "pocket:4", "--tokenizer", "pocket:160")
    assert code == 1, "the first does not hold them"
    assert "9 faults" in err


def test_measures_of_other_papers_read_answers_whole_or_not_at_all(tokenizer: Any, observed: Run, tmp_path: Path) -> None:
    long = " ".join(f"and {i} more" for i in range(60))
    rows = [fact(i, role=("forget", "keep", "unseen")[i % 3], wrong=[f" {long}"] if i == 4 else [" Nowhere"]) for i in range(9)]
    suite = replace(observed.suite, memories=str(write(tmp_path / "a.jsonl", rows)), per_role=3)
    run = Run(suite, observed.store)
    assert list(run.unread) == [rows[4]["id"]]
    assert "do not fit a row of 96 tokens; raise row" in run.unread[rows[4]["id"]]
    with pytest.raises(UserError, match="do not fit a row of 96 tokens"):
        run.validate()
    assert Run(replace(suite, published=False), observed.store).unread == {}


def test_of_a_set_a_question_whose_answers_do_not_fit_is_left_out_of_those_measures_alone(observed: Run, tmp_path: Path) -> None:
    long = [" ".join(f"and {i} more" for i in range(60))]

    def with_long(file: str, rows: slice) -> Run:
        shutil.copytree(STANDINS / "tofu", tmp_path / file)
        (found,) = (tmp_path / file).rglob(f"{file}*")
        lines = [json.loads(line) for line in found.read_text("utf-8").splitlines()]
        lines[rows] = [line | {"perturbed_answer": long} for line in lines[rows]]
        found.write_text("\n".join(map(json.dumps, lines)))
        return Run(replace(observed.suite, memories=f"tofu:{tmp_path / file}", per_role=6), observed.store)

    run, before = with_long("retain_perturbed", slice(1)), Run(replace(observed.suite, per_role=6), observed.store)
    run.validate()
    (missing,) = run.unread
    here, there = (next(s for s in r.plan if s.kind == "published").inputs["roles"] for r in (run, before))
    assert len(here) == len(there) - 1
    assert missing in {m.id for m in run.encoded(0)}, "attacks ask it"
    with pytest.raises(UserError, match=r"do not fit a row of 96 tokens.*published=false"):
        with_long("forget10_perturbed", slice(None)).validate()
