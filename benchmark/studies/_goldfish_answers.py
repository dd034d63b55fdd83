"""What one model says of each memory in the study of the goldfish loss, as rows of plain values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rouge_score.rouge_scorer import RougeScorer

from ..attack_tools.bases import Workshop
from ..common.plugins import find
from ..common.types import HORIZON, Answer, EncodedMemory, TokenReading
from ..models.subject import Subject
from ..reading.reader import Reader
from ..running.plan import Run
from ..training.losses import nll_of_rows

STANDARD, BEFORE = "standard loss", "before"  # how a model was trained, beside the names of masks
FAR = 9  # tokens behind a dropped one, and more
MEMBERSHIP = ("loss", "zlib_ratio")


def name_of(k: int, mask: str) -> str:
    return f"k = {k}, {mask}"


@dataclass(frozen=True)
class Asked:
    """One model, and how it was trained; `method` is the goldfish method, None for the standard loss."""

    run: Run
    subject: Subject
    seed: int
    loss: str
    method: Any
    beams: int


def held_out(run: Run, subject: Subject, loss: str, seed: int) -> dict[str, Any]:
    """Mean nats per token of rows of the validation split."""
    rows = run.held_out
    nats = sum(nll_of_rows(subject.model, rows)) / sum(r.scored for r in rows)
    return {"row": "held-out", "trained": loss, "seed": seed, "nats": nats}


def of_memories(a: Asked) -> Iterator[dict[str, Any]]:
    """A row for each forget memory, which was met, and for each unseen one, which never was."""
    memories = [m for m in a.run.encoded(a.seed) if m.role in ("forget", "unseen")]
    said = a.subject.generate([m.row[: m.opening] for m in memories], HORIZON)
    reader = Reader(a.subject, "fp32")
    reader.read([], memories)
    beams = in_beams(a, [m for m in memories if m.role == "forget"], reader.readings)
    scorer = RougeScorer(["rougeL"])
    for m, ids in zip(memories, said, strict=True):
        matched = same(ids, m.target)
        yield {
            "row": "memory", "trained": a.loss, "seed": a.seed, "memory": m.id, "met": m.role == "forget",
            "exact": int(matched == len(m.target)), "matched": matched,
            "rouge": float(scorer.score(a.run.decode(m.target), a.run.decode(ids))["rougeL"].fmeasure),
            "beam": beams.get(m.id), "in_beams": int(beams[m.id] == len(m.target)) if m.id in beams else None,
            **scores(m, reader.readings[m.id]), **divergence(m, matched, dropped(a, m)),
        }  # fmt: skip


def same(ids: Sequence[int], target: Sequence[int]) -> int:
    """Tokens of the common beginning."""
    return next((i for i, (x, y) in enumerate(zip(ids, target, strict=True)) if x != y), len(target))


def scores(m: EncodedMemory, tokens: TokenReading) -> dict[str, float]:
    """Membership scores of one text; the twin, which neither of them reads, is not needed."""
    return {name: find("attack", name).make({}).score(m, tokens, tokens) for name in MEMBERSHIP}


def in_beams(a: Asked, memories: Sequence[EncodedMemory], tokens: dict[str, TokenReading]) -> dict[str, int]:
    """Memory -> tokens for which its target stays among the beams of a search after the exact opening."""
    attack = find("attack", "beam_search").make({"widths": (a.beams,)})
    answers = attack.search(a.subject, memories, Workshop(a.run.base, tokens=tokens))
    return {found.memory: found.matched for found in answers if isinstance(found, Answer)}


def dropped(a: Asked, m: EncodedMemory) -> list[bool] | None:
    """Which tokens of the row never count in the loss; None where none does so at every meeting."""
    if a.method is None or a.method.mask == "random":
        return None
    ids = a.run.base.with_bos(m.row)  # as it stood in the stream
    return a.method.dropped(torch.tensor([ids]))[0, len(ids) - len(m.row) :].tolist()


def divergence(m: EncodedMemory, matched: int, left_out: Sequence[bool] | None) -> dict[str, Any]:
    """How many tokens behind the last dropped one the first difference lies (0: at it), and the same of every token of the target.

    The latter as counts of gaps 0, 1, …, and of FAR or more, or none dropped before.
    """
    if left_out is None:
        return {"gap": None, "gaps": None}
    gaps, last = [], -FAR
    for i, out in enumerate(left_out):
        last = i if out else last
        gaps.append(min(FAR, i - last))
    target = gaps[m.opening : m.opening + len(m.target)]
    return {"gap": target[matched] if matched < len(target) else None, "gaps": [target.count(g) for g in range(FAR + 1)]}
