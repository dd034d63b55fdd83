"""The model as it is, asked like a changed one: what every change of a model is measured against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..benchmark.attack import Changed, Row, Subject, Tampering, Workshop, replaced


@dataclass(frozen=True)
class Unchanged(Tampering):
    """No change at all. Changed models are asked with fewer prompts than the model itself, so reversal needs this row.

    A suite with attacks that change the model has it without naming it.
    """

    diagnostic = True

    def tamper(self, subject: Subject, relearned: Sequence[Row], tools: Workshop) -> Iterable[Changed]:
        yield Changed(replaced(subject, {}), "as it is")
