"""The smallest weights set to 0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch.nn.utils.prune import L1Unstructured

from ..benchmark.attack import Changed, Row, Shares, Subject, Tampering, Workshop, covered, each_matrix, linear_weights, replaced


@dataclass(frozen=True)
class Prune(Tampering):
    """Set the smallest weights of every matrix of attention and MLPs to 0 (unstructured magnitude pruning)."""

    shares: Shares = (0.1, 0.2, 0.3)

    def tamper(self, subject: Subject, relearned: Sequence[Row], tools: Workshop) -> Iterable[Changed]:
        weights = linear_weights(subject.model)
        for share in self.shares:
            pruned = {name: each_matrix(L1Unstructured(share).prune, w.detach()) for name, w in weights.items()}
            yield Changed(replaced(subject, pruned), f"{share:.0%}", covered=covered(subject.model))
