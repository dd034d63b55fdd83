"""Relearning on half of what was forgotten (Hu et al. 2024, arXiv 2406.13356; Deeb & Roger 2024, arXiv 2410.08827)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..benchmark.attack import Changed, Count, Positive, Relearning, Row, Shares, Subject, Tampering, Workshop


@dataclass(frozen=True)
class Relearn(Tampering):
    """Train all weights on one half of the forget memories and read the other half; then crosswise.

    `shares` of the forget set are nested. For the largest, findings tell how much the exact opening brings back after
    each of `points` steps.
    """

    shares: Shares = (0.1, 0.2, 0.5)
    lr: Positive = 3e-4
    steps: Count = 20
    batch: Count = 8
    points: tuple[Count, ...] = (5, 10, 20)

    tier = 3
    learns = True

    def tamper(self, subject: Subject, relearned: Sequence[Row], tools: Workshop) -> Iterable[Changed]:
        yield from Relearning(self.shares, self.lr, self.steps, self.batch, self.points).changed(subject, relearned, tools)
