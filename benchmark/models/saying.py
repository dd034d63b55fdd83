"""What a model says after prompts, as text: greedy, and only up to where the model itself ends it."""

from __future__ import annotations

from collections.abc import Sequence

from .subject import Subject

STEP = 32  # tokens: texts that need about as many are generated together


def said(subject: Subject, prompts: Sequence[tuple[int, ...]], tokens: Sequence[int]) -> list[str]:
    """What is said after each prompt, of at most as many tokens as `tokens` has for it."""
    groups: dict[int, list[int]] = {}
    for i, n in enumerate(tokens):
        groups.setdefault(-(-n // STEP) * STEP, []).append(i)
    out = [""] * len(prompts)
    for most, mine in groups.items():
        for i, ids in zip(mine, subject.generate([prompts[i] for i in mine], most), strict=True):
            out[i] = text_of(subject, ids[: tokens[i]])
    return out


def text_of(subject: Subject, ids: Sequence[int]) -> str:
    """The text of ids that a model said, up to the first that ends a text (`Subject.ends`)."""
    return subject.tokenizer.decode(subject.ended(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
