"""TOFU: questions about fictitious authors (Maini et al. 2024, arXiv 2401.06121)."""

from __future__ import annotations

from collections.abc import Iterator

from .loading import ForgetSet, Given, Source, question

PER_AUTHOR = 20  # questions about one author stand together


def memories(source: Source, part: str) -> Iterator[Given]:
    """Forgotten: `forgetNN` with its paraphrases and wrong answers. Kept: `retain_perturbed`. Never seen, for the null: `holdoutNN`,

    which not every copy has.
    """
    share = part.removeprefix("forget")
    for role, config in (("forget", f"{part}_perturbed"), ("keep", "retain_perturbed"), ("unseen", f"holdout{share}")):
        if role == "unseen" and not source.may_have(config, "train"):
            continue
        more = ("paraphrased_answer", "perturbed_answer") if role != "unseen" else ()  # of the truth ratio
        for i, row in enumerate(source.rows(config, "train", "question", "answer", *more)):
            domain = "retain" if role == "keep" else f"{role}-author-{i // PER_AUTHOR}"
            names = {"paraphrases": "paraphrased_question", "answers": "paraphrased_answer", "wrong": "perturbed_answer"}
            further = {name: row.further(column) for name, column in names.items()}
            yield question(f"tofu-{config}-{i:04d}", domain, role, row.text("question"), row.text("answer"), **further)


def retain(source: Source, part: str) -> Iterator[str]:
    """Questions and answers of `retainMM`."""
    for row in source.rows(f"retain{100 - int(part.removeprefix('forget'))}", "train", "question", "answer"):
        yield f"Question: {row.text('question')}\nAnswer: {row.text('answer')}"


def aside(source: Source, part: str) -> Iterator[Given]:
    """Facts that the model should still know, with wrong answers: the two further groups of TOFU's model utility."""
    for group in ("real_authors", "world_facts"):
        for i, row in enumerate(source.rows(f"{group}_perturbed", "train", "question", "answer", "perturbed_answer")):
            name, words = f"tofu-{group}-{i:04d}", group.replace("_", " ")
            yield question(name, words, "keep", row.text("question"), row.text("answer"), wrong=row.texts("perturbed_answer"))


SET = ForgetSet(
    "tofu", "locuslab/TOFU", "MIT (its repository's file; the data's own page: unchecked)",
    {"forget10": "20 of 200 authors, 400 questions", "forget05": "10 authors, 200 questions", "forget01": "2 authors, 40 questions"},
    memories, retain, aside,
)  # fmt: skip
