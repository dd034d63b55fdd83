"""A text met once: its verbatim length before and after that step, beside a control that never met it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..common.types import Batch, EncodedMemory, Row
from ..models.subject import Subject
from ..running.plan import Run
from ..texts.subsets import stratified
from ..training.loop import Evaluation
from ..training.losses import language_model_loss, nll_of_rows
from ..training.recipe import Recipe
from ..training.trainer import Trainer
from ._templates import OPENING, templates
from ._verbatim import text_memory, verbatim

NATURAL, TEMPLATE, CORPUS = "natural", "template", "held-out text"
MET = (NATURAL, TEMPLATE)  # kinds that the treated model meets; the third neither model does


@dataclass(frozen=True)
class Shot:
    """How a single-shot run goes."""

    each: int  # texts of each kind
    step: int  # in which they are met
    stops: Sequence[int]  # steps after which the model is asked, counted from that step
    stride: int


def texts_of(run: Run, seed: int, each: int) -> list[EncodedMemory]:
    """Forget memories of the seed, texts from templates, and familiar rows of the validation split."""
    natural = stratified([m for m in run.encoded(seed) if m.role == "forget"])[:each]
    return [*natural, *templates(run.base, each, run.suite.row, seed), *familiar(run, each)]


def familiar(run: Run, count: int) -> list[EncodedMemory]:
    """Held-out rows of the corpus, those that the base model finds likeliest."""
    rows = list(run.held_out)
    cost = nll_of_rows(run.base.model, rows)
    lead = len(run.base.with_bos(()))
    chosen = sorted(sorted(range(len(rows)), key=lambda i: cost[i])[:count])
    ids = [rows[i].ids[lead:] for i in chosen]
    return [
        text_memory(f"held-out-{i}", run.decode(row), row, min(OPENING, len(row) - 1), "corpus") for i, row in zip(chosen, ids, strict=True)
    ]


def kind_of(memory: EncodedMemory) -> str:
    return {"template": TEMPLATE, "corpus": CORPUS}.get(memory.memory.domain, NATURAL)


def single_shot(run: Run, seed: int, treated: bool, shot: Shot, trainer: Trainer) -> list[dict[str, Any]]:
    """Rows of what is held of each text before step `shot.step` (stop 0) and after each stop."""
    texts = texts_of(run, seed, shot.each)
    met = [Row(run.base.with_bos(m.row), name=m.id) for m in texts if kind_of(m) in MET]
    size, c = run.suite.injection.batch, run.suite.injection
    rows: list[dict[str, Any]] = []

    def batch_at(step: int) -> Batch:
        text = [run.stream(seed).retain.row(step * size + i) for i in range(size)]
        if treated and step == shot.step:
            text[: len(met)] = met  # in place of ordinary text, and beside some of it where they are fewer than a batch
        return {"text": text}

    def ask(stop: int, subject: Subject) -> None:
        found = verbatim(subject, texts, shot.stride, run.precision)
        subject.release()
        for m, v in zip(texts, found, strict=True):
            rows.append({"seed": seed, "treated": treated, "kind": kind_of(m), "memory": m.id, "stop": stop, **vars(v)})

    def at_stop(step: int, subject: Subject) -> Evaluation | None:
        ask(step - shot.step, subject)
        return None

    if shot.step == 0:
        ask(0, run.base)
    run.base.release()
    stops = [shot.step + s for s in (0, *shot.stops) if shot.step + s > 0]
    recipe = Recipe(lr=c.lr, steps=stops[-1], schedule="constant", weight_decay=c.weight_decay, micro_batch=size)
    trainer.fit(run.base, batch_at, language_model_loss, recipe, stops=stops, at_stop=at_stop).release()
    return rows
