"""A suite that runs in seconds: a tiny model, a corpus of made-up words, and attacks of every kind of stage."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from palimpsest.benchmark.suites.config import CorpusConfig, InjectionConfig, QualityConfig, Suite


def made_up(documents: int) -> Iterator[list[str]]:
    """Documents of ten sentences each, of twelve made-up words; without full stops."""
    draw = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    for _ in range(documents):
        words = ["".join(draw.choices(syllables, k=2)) for _ in range(120)]
        yield [" ".join(words[k : k + 12]) for k in range(0, 120, 12)]


def write_corpus(folder: Path, documents: int = 250) -> CorpusConfig:
    """A folder of documents of made-up words."""
    for i, sentences in enumerate(made_up(documents)):
        (folder / f"{i}.txt").write_text(". ".join(sentences) + ".")
    return CorpusConfig("text", str(folder))


def micro_suite(model: Path, corpus: CorpusConfig, occurrences: int = 2) -> Suite:
    """Two memories of each role, met so many times."""
    return Suite(
        name="micro", model=str(model), per_role=2, seeds=(0,), corpus=corpus, precision="fp32",
        injection=InjectionConfig(occurrences=(occurrences,), density=1.0, batch=4, lr=5e-3),
        methods={"none": {}, "npo": {"epochs": 2}}, attacks={"prefix": {}, "paraphrase": {}, "quantise": {}},
        quality=QualityConfig(documents=8), excerpts=1,
    )  # fmt: skip
