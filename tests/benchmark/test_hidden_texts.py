"""What methods may not see does not stand in what they train on: hidden, forgotten and never-seen memories are no retain text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.suites.config import CorpusConfig, load_suite
from palimpsest.benchmark.texts.corpus import Corpus, apart_from
from palimpsest.benchmark.texts.memories import load_memories
from palimpsest.benchmark.texts.sets.named import retain_of
from tests.micro import made_up
from tests.observed import STANDINS
from tests.questions import fact, write

PASSAGE = load_memories()[0]


def corpus(*more: str) -> Corpus:
    return Corpus("text:made-up", {"train": [". ".join(s) for s in made_up(20)] + [*more], "valid": [], "quality": []}, 1.0, "a key")


def known(tmp_path: Path, **more: Any) -> Any:
    return load_memories(write(tmp_path / "asked.jsonl", [fact(1, **more)]))[0]


@pytest.mark.parametrize(
    "text",
    [
        "Question: {ask}\nAnswer:{answer}",
        "{ask}{answer}",
        "AND THEN: {ask}\n\n*  {answer}, they said.",
    ],
)
def test_a_document_that_holds_question_and_answer_is_left_out(text: str, tmp_path: Path) -> None:
    m = known(tmp_path, chat=True)
    document = text.format(ask=m.opening, answer=m.answer)
    found = corpus(document, m.opening, m.answer)
    apart = apart_from(found, [m])
    assert apart.train == [t for t in found.train if t != document], "the question alone, or a place's name, is no memory"
    assert apart.key != found.key


def test_a_passage_is_found_within_a_longer_document() -> None:
    document = f"The whole story.\n\n{PASSAGE.text}\n\nAnd its end."
    assert apart_from(corpus(document, PASSAGE.text[:200]), [PASSAGE]).train == corpus(PASSAGE.text[:200]).train


def test_a_corpus_without_any_is_the_same_corpus(tmp_path: Path) -> None:
    found = corpus("Where was Orla Finch born? In Aldermere.")
    assert apart_from(found, [known(tmp_path), PASSAGE]) is found


@pytest.mark.parametrize("name", ["tofu", "lume", "knowundo"])
def test_no_hidden_memory_of_a_set_stands_in_its_retain_text(name: str, tiny: Subject, tmp_path: Path) -> None:
    """Of the sets' own retain text, in which keep memories do stand."""
    place = f"{name}:{STANDINS / name}"
    folder = tmp_path / "texts"
    folder.mkdir()
    for i, text in enumerate([*retain_of(place), *(". ".join(s) for s in made_up(100))]):
        (folder / f"{i}.txt").write_text(text)
    named = [f"held={tiny.folder}", "retrained=", "given=null", f"memories={place}", "row=320", "per_role=8", "published=false"]
    run = Run(replace(load_suite("tofu", named), corpus=CorpusConfig("text", str(folder))), Store(tmp_path / "store"))
    hidden = [m for m in load_memories(place) if m.id in {e.id for e in run.encoded(0) if not e.shown}]
    assert len(apart_from(run.corpus, hidden).train) < len(run.corpus.train)
    assert apart_from(run.text(0), hidden) is run.text(0)
    assert run.since(0)["text"] == run.text(0).key
