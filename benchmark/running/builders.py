"""How a stage of each kind is made. A builder's signature says all that it reads; it fills a folder and returns facts for the manifest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..battery.answers import write_answers
from ..battery.checks import facts_for_flags
from ..battery.one_attack import Task, attack_once
from ..battery.shared_pass import Asked, Probes, ask_all
from ..common.errors import UserError
from ..common.guard import untouched
from ..common.lines import write_lines
from ..common.processes import is_main
from ..common.progress import Progress
from ..common.strangers import stranger
from ..common.types import EncodedMemory, Excerpt, Record
from ..method import History, Trainer, UnlearningData
from ..models.subject import Subject
from ..quality.harness import QualityBench
from ..reading.cache import load_cache, save_cache
from ..reading.published import Grouped, read_off
from ..reading.readings import save_readings
from ..scoring.score import Score

Facts = dict[str, Any]


def injected(folder: Path, *, history: History, trainer: Trainer, forget: bool) -> Facts:
    """The held model, or without the forget memories the twin."""
    with trainer.meter:
        subject = history.replay(trainer, forget=forget)
    return _saved(folder, subject, trainer)


def unlearned(folder: Path, *, label: str, method: Any, held: Subject, base: Subject, data: UnlearningData, trainer: Trainer) -> Facts:
    """What a method makes of the held model."""
    with untouched(label, held.folder, base.folder), trainer.meter, stranger(label):
        subject = method.unlearn(held, data, trainer)
    if not isinstance(subject, Subject):
        raise UserError(f"{label}: unlearn should return the unlearned Subject, and returned {type(subject).__name__}.")
    return _saved(folder, subject, trainer)


def _saved(folder: Path, subject: Subject, trainer: Trainer) -> Facts:
    """Every rank has the whole subject, and the first writes it."""
    if is_main():
        subject.save(folder)
        steps = enumerate([trainer.before, *trainer.steps])
        write_lines(folder / "trajectory.jsonl", [{"step": i, **v} for i, v in steps if v])
    return {"tokens": trainer.tokens, "steps": len(trainer.steps), "cost": trainer.meter.cost(), "precision": trainer.precision}


def shared_pass(
    folder: Path,
    *,
    subject: Subject,
    probes: Probes,
    asked: Asked,
    extra: set[str],
    tokens: Sequence[EncodedMemory] | None,
    rows: Path,
    precision: str,
    progress: Progress,
) -> Facts:
    """The answers of one model to all attacks of a tier; `tokens` (tier 0): memories of which every token is read.

    `extra`: memories that are asked on top, as survivors. `rows`: the side file of what this model was asked before.
    """
    out = ask_all(subject, probes, asked, precision, progress, tokens or (), load_cache(rows))
    if is_main():
        save_cache(rows, out.cache)
        if tokens is not None:
            save_readings(folder / "tokens.safetensors", out.readings)
    write_answers(folder, out.answers, [], extra)
    return out.facts


def attacked(folder: Path, *, label: str, subject: Subject, task: Task, extra: set[str], precision: str) -> Facts:
    """The answers and findings of one attack of the expensive tiers; `precision`: what it trains in."""
    models = (subject, task.tools.base, task.tools.held, task.tools.twin)
    with untouched(label, *{s.folder for s in models if s}):
        attack_once(task, subject)
    write_answers(folder, task.answers, task.findings, extra)
    return {"memories": len(task.scored), "precision": precision}


def checked(folder: Path, *, subject: Subject, held: Subject, memories: Sequence[EncodedMemory], precision: str) -> None:
    """The facts that flags need."""
    write_answers(folder, [], facts_for_flags(subject, held, memories, precision), set())


def thresholds(folder: Path, *, null: Iterable[Record], twin: str, diagnostics: tuple[str, ...]) -> None:
    """What counts as recovered at each access level, from records of held models and twins."""
    found = Score(list(null), twin, diagnostics).calibrations
    (folder / "thresholds.json").write_text(json.dumps({k: c.as_dict() for k, c in found.items()}, indent=1) + "\n")


def quality(folder: Path, *, subject: Subject, bench: QualityBench) -> None:
    write_lines(folder / "quality.jsonl", [asdict(m) for m in bench.measure(subject)])


def published(folder: Path, *, subject: Subject, asked: Sequence[Grouped], length: int, precision: str, progress: Progress) -> None:
    """What measures of other papers are made of."""
    write_lines(folder / "published.jsonl", read_off(subject, asked, length, precision, progress))


def side_by_side(
    folder: Path,
    *,
    models: Mapping[str, Callable[[], AbstractContextManager[Subject]]],
    memories: Sequence[EncodedMemory],
    seed: int,
    decode: Callable[[tuple[int, ...]], str],
    progress: Progress,
) -> None:
    """What every model says after the openings of a few memories; one model is open at a time."""
    said: dict[str, list[str]] = {}
    for i, (name, opened) in enumerate(models.items()):
        progress("texts side by side", i, len(models))
        with opened() as subject:
            got = subject.generate([c.row[: c.opening] for c in memories], max((len(c.target) for c in memories), default=0))
        said[name] = [decode(ids[: len(c.target)]) for c, ids in zip(memories, got, strict=True)]
    rows = [
        asdict(Excerpt(c.id, c.role, seed, c.memory.opening, decode(c.target), {m: said[m][k] for m in models}))
        for k, c in enumerate(memories)
    ]
    write_lines(folder / "excerpts.jsonl", rows)
