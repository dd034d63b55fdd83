"""Relearning with low-rank adapters on half of what was forgotten (Hu et al. 2021, arXiv 2106.09685; Hu et al. 2024, arXiv 2406.13356)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..benchmark.attack import Changed, Count, Lora, Positive, Relearning, Row, Shares, Subject, Tampering, Workshop


@dataclass(frozen=True)
class RelearnLora(Tampering):
    """Train low-rank adapters on one half of the forget memories and read the other half; then crosswise."""

    shares: Shares = (0.1, 0.2, 0.5)
    lr: Positive = 2e-3
    steps: Count = 40
    batch: Count = 8
    points: tuple[Count, ...] = (5, 10, 20, 40)
    rank: Count = 8
    alpha: Positive = 16.0

    tier = 3
    learns = True

    def tamper(self, subject: Subject, relearned: Sequence[Row], tools: Workshop) -> Iterable[Changed]:
        how = Relearning(self.shares, self.lr, self.steps, self.batch, self.points, Lora(self.rank, self.alpha))
        yield from how.changed(subject, relearned, tools)
