"""Signs of life: how well a model predicts ordinary text that is at hand. A broken model says as little of a memory as a forgetful one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..common.errors import UserError
from ..common.types import Row
from ..models.subject import Subject
from ..texts.docstrings import some
from ..training.losses import nll_of_rows

TEXTS, CHARACTERS = 32, 400  # documents, and how much of the beginning of each
NEAR = 0.9  # of what a uniform guess costs: a model that needs so much says nothing
FAR = 1.5  # times the reference's bits per byte
SOURCE = f"the beginnings of {TEXTS} docstrings of installed packages"


@dataclass(frozen=True)
class Vitals:
    """What ordinary text costs a model."""

    nats: float  # per token
    bits: float  # per byte
    uniform: float  # nats per token of a guess that holds every token for equally likely

    def __str__(self) -> str:
        return f"{self.nats:.2f} nats per token, {self.bits:.2f} bits per byte"

    @property
    def says_nothing(self) -> bool:
        return self.nats >= NEAR * self.uniform


def ordinary_texts() -> list[str]:
    """Text that is on every machine where this runs, and that nobody makes a model forget."""
    return [text[:CHARACTERS] for text in some(TEXTS)]


def vitals(subject: Subject, texts: Sequence[str], name: str) -> Vitals:
    """Read the texts once, in fp32; `name` is the model's in the message if what it computes is no number."""
    encoded = [tuple(subject.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    rows = [Row(subject.with_bos(ids)) for ids in encoded if len(ids) > 1]
    unscored = [ids[:1] if subject.bos is None else () for ids in encoded]  # nothing comes before the first token, so it is not predicted
    size = sum(len(text.encode()) - len(subject.tokenizer.decode(first).encode()) for text, first in zip(texts, unscored, strict=True))
    nats = sum(nll_of_rows(subject.model, rows))
    if not math.isfinite(nats):
        raise UserError(
            f"{name}: what it computes for ordinary text is not finite ({nats} nats). Its weights are damaged; it cannot be measured."
        )
    return Vitals(nats / sum(r.scored for r in rows), nats / math.log(2) / max(1, size), math.log(len(subject.tokenizer)))


def doubts(model: Vitals, reference: Vitals | None) -> list[str]:
    """Why short matches of the model may come from damage and not from forgetting; nothing for a model in good health."""
    found = []
    if model.says_nothing:
        found.append(f"This model is broken, not forgetful: {_cost(model)}. Short matches say nothing about what it was made to forget.")
    elif reference and model.bits > FAR * reference.bits:
        found.append(
            f"This model is broken, not forgetful: ordinary text costs it {model.bits / reference.bits:.1f} times the reference's bits "
            "per byte. Short matches may come from that damage alone."
        )
    if reference and reference.says_nothing:
        found.append(f"The reference is broken: {_cost(reference)}. What it does not say is no yardstick.")
    return found


def _cost(v: Vitals) -> str:
    return f"ordinary text costs it {v.nats:.2f} nats per token, and a uniform guess {v.uniform:.2f}"
