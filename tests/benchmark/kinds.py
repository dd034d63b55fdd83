"""What tests of a subject's kinds share: logits, and probes of openings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import EncodedMemory, Probe
from palimpsest.benchmark.models.subject import Subject

INSTEAD = (11, 12, 13)


def logits(subject: Subject, rows: Sequence[tuple[int, ...]]) -> Tensor:
    with torch.no_grad():
        return subject.model(torch.tensor(rows, device=device())).logits.cpu()


def opening_probes(memories: Sequence[EncodedMemory]) -> list[Probe]:
    return [Probe(m.id, (), m.row, 0, (m.opening,), ("opening",), 0) for m in memories]
