"""The held model itself."""

from __future__ import annotations

from dataclasses import dataclass

from ..benchmark.method import Method, Subject, Trainer, UnlearningData


@dataclass(frozen=True)
class NoUnlearning(Method):
    """The held model as it is: the ceiling of every attack."""

    def unlearn(self, held: Subject, data: UnlearningData, train: Trainer) -> Subject:
        return held
