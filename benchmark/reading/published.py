"""What measures of other papers are made of, read off one model: every answer's tokens, and what it says when it is asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..common.lines import json_lines
from ..common.progress import Progress, silent
from ..common.types import EncodedMemory, Probe
from ..models.saying import said
from ..models.subject import Subject
from ..texts.questions import answer_ids, first_lines
from .reader import Reader

FEWEST = 32  # tokens that are generated of an answer, at least
Grouped = tuple[EncodedMemory, str]  # a memory, and the group of further questions that it belongs to ("" for the run's own)


def read_off(
    subject: Subject, asked: Sequence[Grouped], length: int, precision: str = "auto", progress: Progress = silent
) -> list[dict[str, Any]]:
    """A row for each memory with the fields of `AnswerReading` but for method and seed. `length`: tokens of a row, at most."""
    memories = [m for m, _ in asked]
    other = {(m.id, kind): _others(subject, m, kind, length) for m in memories for kind in ("answers", "wrong")}
    reader = Reader(subject, precision, progress=progress)
    hits = reader.read([_every_token(m) for m in memories], [*memories, *(o for others in other.values() for o in others)])
    told = _told(subject, [m for m in memories if m.memory.kind != "choice"])
    rows = []
    for (m, group), hit in zip(asked, hits, strict=True):
        reading = reader.readings[m.id]
        logs = reading.log_probability[0 if subject.bos is not None else 1 :] if not m.memory.is_question else ()
        means = {k: [_mean(reader.readings[o.id].log_probability[m.opening :]) for o in other[m.id, k]] for k in ("answers", "wrong")}
        rows.append(
            {
                "memory": m.id,
                "role": m.role,
                "group": group,
                "kind": m.memory.kind,
                "mean_log": _mean(reading.log_probability[m.opening :]),
                "right": means["answers"],
                "wrong": means["wrong"],
                "likeliest": [n > 0 for n in hit],
                "log_probabilities": [round(float(x), 6) for x in logs],
                "said": told.get(m.id, ""),
                "truth": subject.tokenizer.decode(m.row[m.opening :], clean_up_tokenization_spaces=False),
            }
        )
    return rows


def load(file: Path) -> list[dict[str, Any]]:
    """The rows that were saved, with tuples for lists."""
    return [{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()} for _, row in json_lines(file)]


def _every_token(m: EncodedMemory) -> Probe:
    """Whether each token behind the opening is what greedy decoding says there, by the rule of matched lengths: of equals the lower id."""
    cuts = tuple(range(m.opening, len(m.row)))
    return Probe(m.id, (), m.row, 0, cuts, tuple(map(str, cuts)), 0, horizon=1, lists=True)


def _others(subject: Subject, m: EncodedMemory, kind: str, length: int) -> list[EncodedMemory]:
    """The memory with each of its further answers, or wrong ones, in place of its own."""
    prompt, out = m.row[: m.opening], []
    for i, text in enumerate(getattr(m.memory, kind) if m.memory.is_question else ()):
        ids = answer_ids(m.memory, prompt, text, subject.tokenizer)
        out.append(replace(m, memory=replace(m.memory, id=json.dumps([m.id, kind, i])), row=(*prompt, *ids)[:length]))
    return out


def _told(subject: Subject, memories: Sequence[EncodedMemory]) -> dict[str, str]:
    """Memory -> what is said after its opening: of a passage as many tokens as the row has, of an answer twice as many as the true one.

    It ends where the model ends it, of an answer behind as many lines as the answer has, and where the model has no further position:
    behind as many tokens as the row has at least, since rows that no model could read were refused.
    """
    texts = said(subject, [m.row[: m.opening] for m in memories], list(map(_wanted, memories)))
    return {m.id: first_lines(text, m.memory.answer) if m.memory.is_question else text for m, text in zip(memories, texts, strict=True)}


def _wanted(m: EncodedMemory) -> int:
    rest = len(m.row) - m.opening
    return max(FEWEST, 2 * rest) if m.memory.is_question else rest


def _mean(log_probabilities: np.ndarray) -> float:
    return float(np.mean(log_probabilities))
