"""Primal-dual unlearning (Entesari et al. 2025, arXiv 2506.05314)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..benchmark.method import Descent, Group, NotNegative, Range, Reference, Space, Term, Terms, UnlearningData, nll_sum, scored_logits

MEASURED = 8  # batches of retain rows on which epsilon is measured


@dataclass
class Dual:
    """The multiplier of the constraint "retain loss at most epsilon": raised while it is broken, lowered while there is room."""

    value: float
    rate: float
    epsilon: float

    def after_step(self, values: dict[str, float]) -> None:
        self.value = max(0.0, self.value + self.rate * (values["retain_loss"] - self.epsilon))

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, saved: dict[str, float]) -> None:
        self.value = saved["value"]


@dataclass(frozen=True)
class PDU(Descent):
    """Flatten the logits under a constraint on retain text: L = gamma mean (max z - mean z)^2 + lambda (NLL(y) - epsilon).

    After each step lambda becomes max(0, lambda + eta (NLL(y) - epsilon)). z are the logits where a token of the forget
    text is predicted. lambda is saved and restored with the training.

    Deviations: epsilon, which the paper wants chosen per model, is (1 + slack) times the held model's own loss on the first
    8 batches of retain rows. lambda moves from the first step on, without the paper's warm-up epochs, and faster than its
    eta of 1. The constant -lambda epsilon, which has no gradient, is left out of the terms; "retain_loss" is NLL(y) without
    a gradient. Open Unlearning masks logits by labels that are not shifted, so there z are those behind a scored token: the last
    one counts, and those that predict the first do not.
    """

    lr: float = 3e-4
    epochs: int = 12
    gamma: NotNegative = 1.0
    dual: NotNegative = 1.0  # lambda before the first step
    eta: NotNegative = 10.0
    slack: NotNegative = 0.05  # epsilon above the held model's own retain loss, as a share of it

    search: ClassVar[Space] = {"lr": Range(1e-5, 3e-3), "eta": Range(1.0, 100.0), "slack": Range(0.01, 0.3)}
    paper: ClassVar[str] = "Entesari et al. 2025, arXiv 2506.05314"

    def state(self, data: UnlearningData, reference: Reference) -> Dual:
        batch_at = self.batch_at(data)
        rows = [r for step in range(MEASURED) for r in batch_at(step)["retain"]]
        return Dual(self.dual, self.eta, (1 + self.slack) * reference.mean_nll(rows))

    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference, state: Dual | None = None) -> Terms:
        assert state is not None
        logits = scored_logits(model, forget)[0].float()
        margin = logits.amax(-1) - logits.mean(-1)
        kept = nll_sum(model, retain)
        return {
            "forget": Term(margin.square().sum(), "tokens", "forget", self.gamma),
            "retain": Term(kept, "tokens", "retain", state.value),
            "retain_loss": Term(kept.detach(), "tokens", "retain"),
        }
