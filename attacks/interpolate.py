"""Models between the unlearned and the held one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..benchmark.attack import Changed, Row, Shares, Subject, Tampering, UserError, Workshop, replaced


@dataclass(frozen=True)
class Interpolate(Tampering):
    """Weights part of the way from the unlearned back to the held model: a diagnostic, since it takes the held model to make.

    A subject whose weights do not pair with the held model's (two models combined) has no such way and gives nothing.
    """

    shares: Shares = (0.25, 0.5, 0.75)  # of the way to the held model

    diagnostic = True

    def tamper(self, subject: Subject, relearned: Sequence[Row], tools: Workshop) -> Iterable[Changed]:
        if tools.held is None:
            raise UserError("The attack interpolate goes towards the held model; this run gives it none.")
        mine, held = (dict(s.fresh().named_parameters()) for s in (subject, tools.held))
        if {k: w.shape for k, w in mine.items()} == {k: w.shape for k, w in held.items()}:
            for share in self.shares:
                yield Changed(replaced(subject, {k: w.detach().lerp(held[k].detach(), share) for k, w in mine.items()}), f"{share:.0%}")
