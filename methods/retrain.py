"""The gold standard: retraining without the forget set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..benchmark.method import Method, Subject, Trainer, UnlearningData


@dataclass(frozen=True)
class Retrain(Method):
    """Retrain the base on the stream without the forget set, in another order: a twin that is measured, not assumed.

    The yardstick of damage and leak is the twin with the held model's own order; this row shows how far two such
    models differ by chance.
    """

    needs_history: ClassVar[bool] = True

    def unlearn(self, held: Subject, data: UnlearningData, train: Trainer) -> Subject:
        assert data.history is not None
        return data.history.replay(train, forget=False, order="retrain")
