"""What flags need to know about a model: does it answer the same twice, does it say what it reads, how small is its update."""

from __future__ import annotations

from collections.abc import Sequence

from ..common.types import EncodedMemory, Finding, opening_probe
from ..models.quantisation import share_undone
from ..models.subject import Subject
from ..models.weights import by_output
from ..reading.reader import Reader, spans_of, without_copying


def facts_for_flags(subject: Subject, held: Subject, memories: Sequence[EncodedMemory], precision: str) -> list[Finding]:
    """Findings about the model as a whole stand under the memory "".

    `generated`: matched tokens of a greedy text after the exact opening, which is all that a naive evaluation looks at.
    `stochastic`: 1 where two greedy generations of one prompt differ. `generated_differs`: 1 where the matched length of a
    generated text is not the one read off a forward pass: something stands between the model and its output.
    `undone_by_int4`: share of the update of the body's matrices that rounding to 4 bits takes back.
    """
    probes = [opening_probe(m) for m in memories]
    read = [length for (length,) in Reader(subject, precision).read(probes)]
    said = [_generated(subject, memories) for _ in range(2)]
    out = []
    for i, (m, p) in enumerate(zip(memories, probes, strict=True)):
        (span,) = spans_of(p)
        truth = m.row[span[0] : span[1]]
        matched = next((n for n, (a, b) in enumerate(zip(said[0][i], truth, strict=False)) if a != b), len(truth))
        matched = without_copying(p, span, matched)
        out.append(Finding(m.id, "generated", m.of_64(matched)))
        out.append(Finding(m.id, "stochastic", float(said[0][i] != said[1][i])))
        out.append(Finding(m.id, "generated_differs", float(matched != read[i])))
    share = share_undone(by_output(held.fresh()), by_output(subject.fresh()))
    return [*out, Finding("", "undone_by_int4", share)]


def _generated(subject: Subject, memories: Sequence[EncodedMemory]) -> list[tuple[int, ...]]:
    longest = max(len(m.target) for m in memories)
    return subject.generate([m.row[: m.opening] for m in memories], longest)
