"""What tests of the reader share: windows of a row, what generating says of them, and counted forward passes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import EncodedMemory, Probe, TokenReading
from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.reading.oracle import matched_lengths
from palimpsest.benchmark.reading.reader import Reader

LENGTHS = (8, 16, 32, 64)


def every_window(memory: EncodedMemory) -> list[Probe]:
    """One probe per start, with a cut for each prompt length that leaves something to read."""
    row, found = memory.row, []
    for start in range(len(row) - LENGTHS[0]):
        cuts = tuple(k - LENGTHS[0] for k in LENGTHS if start + k < len(row))
        prompt, target = row[start : start + LENGTHS[0]], row[start + LENGTHS[0] :]
        found.append(Probe(memory.id, prompt, target, start + LENGTHS[0], cuts, tuple(map(str, cuts)), start))
    return found


def by_generating(subject: Subject, probes: Sequence[Probe]) -> list[tuple[int, ...]]:
    """What `Reader.read` should return, from `model.generate` over batches of prompts of one length (no copying rule)."""
    asked = [(p.prompt + p.target[:c], p.target[c : c + p.horizon]) for p in probes for c in p.cuts]
    groups = defaultdict(list)
    for i, (prompt, _) in enumerate(asked):
        groups[len(prompt)].append(i)
    lengths = [0] * len(asked)
    for chosen in groups.values():
        ids = torch.tensor([subject.with_bos(asked[i][0]) for i in chosen], device=device())
        tokens = max(len(asked[i][1]) for i in chosen)
        said = subject.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert said.shape[1] == ids.shape[1] + tokens
        for i, row in zip(chosen, said[:, ids.shape[1] :].tolist(), strict=True):
            truth = asked[i][1]
            lengths[i] = next((n for n, (a, b) in enumerate(zip(row, truth, strict=False)) if a != b), len(truth))
    left = iter(lengths)
    return [tuple(next(left) for _ in p.cuts) for p in probes]


def _stands_in(given: tuple[int, ...], run: tuple[int, ...]) -> bool:
    return any(given[i : i + len(run)] == run for i in range(len(given) - len(run) + 1))


def without_copies(probes: Sequence[Probe], said: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Lengths of generated text by the rule that a run which stands in its prompt counts 0."""
    return [
        tuple(0 if _stands_in(p.prompt + p.target[:c], p.target[c : c + n]) else n for c, n in zip(p.cuts, lengths, strict=True))
        for p, lengths in zip(probes, said, strict=True)
    ]


def by_both(subject: Subject, probes: Sequence[Probe]) -> list[tuple[int, ...]]:
    """What the reader gives in fp32, which is what the oracle says."""
    read = fp32(subject).read(probes)
    assert read == [matched_lengths(subject, p) for p in probes]
    return read


def fp32(subject: Subject, **options: Any) -> Reader:
    return Reader(subject, "fp32", **options)


@contextmanager
def counted_forwards(subject: Subject) -> Iterator[list[tuple[int, ...]]]:
    """The shape [rows, tokens] of every forward pass through the body of the model."""
    shapes: list[tuple[int, ...]] = []

    def count(module: Any, args: Any, options: dict[str, Any], output: Any) -> None:
        shapes.append(tuple(options["input_ids"].shape))

    hook = subject.model.base_model.register_forward_hook(count, with_kwargs=True)
    try:
        yield shapes
    finally:
        hook.remove()


def readings(subject: Subject, memories: Sequence[EncodedMemory], **options: Any) -> dict[str, TokenReading]:
    reader = Reader(subject, **options)
    assert reader.read([], memories) == []
    return reader.readings
