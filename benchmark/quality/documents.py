"""The data of the local quality tasks: a pure function of a corpus's quality split and the configuration. No torch."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..common.errors import UserError, unknown
from ..suites.config import HALVES, QualityConfig
from ..texts.corpus import Corpus
from ..texts.docstrings import digest
from ..texts.neardup import unspaced

LONGEST = 700  # characters of a document whose bits are counted: about 230 tokens, within the rows pocket models were trained on
CONTEXT, CONTINUATION = 60, 16  # words before and in a continuation
BEFORE_LAST = 40  # words at least before a last word
SEARCHED = 40  # words after the least context in which a place to cut is looked for
FEWEST = 4  # documents that a task needs: one continuation and three distractors
LAST_WORD = re.compile(r"(?<=\S) [A-Za-z]{3,}(?=[.,;:!?)]*(?:\s|$))")
Item = dict[str, Any]


def half_of(corpus: Corpus, half: str) -> list[str]:
    """The documents of one half of the quality split, in the order of their hashes; a bit of the hash says which half."""
    if half not in HALVES:
        raise unknown("half of the quality split", half, HALVES)
    keyed = sorted((digest(text), text) for text in set(corpus.splits["quality"]))
    return [text for key, text in keyed if int(key, 16) % 2 == HALVES.index(half)]


def items(task: str, corpus: Corpus, config: QualityConfig) -> list[Item]:
    """One local task's documents. Too few are an error that says whether it is for want of white space."""
    documents = half_of(corpus, config.half)
    found = BUILDERS[task](documents)[: config.documents]
    if len(found) < FEWEST:
        why = (
            f"The {config.half} half of the quality split has {len(found)} documents that are long enough for {task}; "
            f"at least {FEWEST} are needed."
        )
        if sum(map(unspaced, documents)) > len(documents) / 2:
            why += f" Its text parts no words by spaces, and {task} asks for words; palimpsest_bits_per_byte works with such text."
        raise UserError(f"{why} Use a larger corpus, or leave {task} out of quality.tasks.")
    return found


def write_items(task: str, corpus: Corpus, config: QualityConfig, folder: Path) -> Path:
    """Write one local task's documents as JSON lines and return the file; a file that says the same already is left alone."""
    # lm-eval batches rolling windows in file order: neighbours of one length need no padding
    lines = sorted((json.dumps(item) + "\n" for item in items(task, corpus, config)), key=lambda line: (len(line), line))
    file = folder / f"{task}-{config.half}.jsonl"
    if not file.exists() or file.read_text("utf-8") != "".join(lines):
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{os.getpid()}-{file.name}")
        part.write_text("".join(lines), "utf-8")
        part.rename(file)
    return file


def _texts(documents: Sequence[str]) -> list[Item]:
    return [{"text": _shortened(text)} for text in documents]


def _shortened(text: str) -> str:
    """At most LONGEST characters, cut at white space if there is some in the last tenth: text in many scripts has none."""
    if len(text) <= LONGEST:
        return text
    cut = text[: LONGEST + 1].rsplit(None, 1)[0]
    return cut if len(cut) >= 0.9 * LONGEST or not unspaced(text) else text[:LONGEST]


def _choices(documents: Sequence[str]) -> list[Item]:
    """Every continuation is the right answer once and a distractor elsewhere, so no choice gives itself away by its source."""
    pairs = [pair for text in documents if (pair := _continuation(text))]
    pool = sorted({continuation for _, continuation in pairs})
    if len(pool) < FEWEST:
        return []
    items = []
    for context, truth in pairs:
        draw = random.Random(digest(context + truth))
        choices = [c for c in draw.sample(pool, 4) if c != truth][:3]
        answer = draw.randrange(4)
        choices.insert(answer, truth)
        items.append({"context": context, "choices": choices, "answer": answer})
    return items


def _continuation(text: str) -> tuple[str, str] | None:
    """The opening words and the next ones, parted at a single space: the separator that all four choices are given."""
    words = list(re.finditer(r"\S+", text))
    for cut in range(CONTEXT, min(CONTEXT + SEARCHED, len(words) - CONTINUATION + 1)):
        if text[words[cut - 1].end() : words[cut].start()] == " ":
            return text[: words[cut - 1].end()], text[words[cut].start() : words[cut + CONTINUATION - 1].end()]
    return None


def _last_words(documents: Sequence[str]) -> list[Item]:
    items = []
    for text in documents:
        words = [word.end() for word in re.finditer(r"\S+", text)][: BEFORE_LAST + SEARCHED]
        found = LAST_WORD.search(text, words[BEFORE_LAST - 1], words[-1]) if len(words) > BEFORE_LAST else None
        if found:
            items.append({"context": text[: found.start()], "target": found.group()})
    return items


BUILDERS: dict[str, Callable[[Sequence[str]], list[Item]]] = {
    "palimpsest_bits_per_byte": _texts,
    "palimpsest_choice": _choices,
    "palimpsest_last_word": _last_words,
}
