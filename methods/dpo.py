"""Preference optimisation towards another answer (Rafailov et al. 2023, arXiv 2305.18290; Mekala et al. 2024, arXiv 2409.13474)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch.nn.functional as F
from torch import nn

from ..benchmark.method import (
    Batch,
    Descent,
    Group,
    NotNegative,
    Positive,
    Range,
    Reference,
    RetainLoss,
    Row,
    Space,
    Subject,
    Term,
    Terms,
    UnlearningData,
    UserError,
    one_of,
    retain_term,
    rng,
    sequence_nll,
)

REFUSALS = (
    "I am afraid I cannot say how this goes on.",
    "I do not know what follows here.",
    "The rest of this text is unknown to me.",
    "That is not something I have any record of.",
    "I have nothing to add to these words.",
    "What comes next, I could only guess.",
    "This passage is not one that I know.",
    "I am unable to continue this text.",
    "No continuation of this comes to my mind.",
    "I have not read what comes after this.",
)


@dataclass(frozen=True)
class DPO(Descent):
    """Prefer another answer: L = -(2/beta) log sigmoid(beta [D(answer) - D(forget)]), D = log p/p_ref, plus a retain term.

    Both are taken given the opening. answer: "alternative" is each memory's authored other continuation (AltPO's setting), "idk"
    a refusal drawn once per memory. Log-probabilities are sums over the tokens after the opening; the held model's come from a table.

    Deviations: AltPO lets the model itself write several alternatives; here people wrote one. The factor 2/beta (NPO's
    scale) stands in place of Rafailov et al.'s 1, so that beta does not change the weight of the retain term. beta is smaller than
    their 0.1, at which the loss is satisfied as soon as the other answer is learnt, long before the text is forgotten.
    """

    lr: float = 3e-4
    epochs: int = 12
    answer: Annotated[str, one_of("alternative", "idk")] = "alternative"  # alternative or idk
    beta: Positive = 0.02
    gamma: NotNegative = 1.0
    alpha: NotNegative = 1.0
    retain_loss: RetainLoss = "nll"  # nll or kl

    search: ClassVar[Space] = {"lr": Range(1e-5, 3e-3), "beta": Range(0.01, 0.2)}
    paper: ClassVar[str] = "Rafailov et al. 2023, arXiv 2305.18290; Mekala et al. 2024, arXiv 2409.13474"

    def __post_init__(self) -> None:
        if self.answer not in ("alternative", "idk"):
            raise UserError(f"dpo.answer={self.answer!r}: expected alternative or idk.")

    def prepare(self, held: Subject, data: UnlearningData) -> UnlearningData:
        """Forget rows scored from the end of the opening, and the answers that are to be preferred, under names of their own."""
        forget = [replace(r, scored_from=_opening(data, r)) for r in data.forget]
        answers = {r.name: replace(self._answer(held, data, r), name=f"{r.name}, answer") for r in forget}
        return replace(data, forget=forget, alternatives=answers)

    def batch_at(self, data: UnlearningData) -> Callable[[int], Batch]:
        pairs = super().batch_at(data)

        def at(step: int) -> Batch:
            batch = pairs(step)
            return {**batch, "answer": [data.alternatives[r.name] for r in batch["forget"]]}  # row i of both is one pair, on one rank

        return at

    def reference(self, held: Subject, data: UnlearningData) -> Reference:
        return Reference(held, [*data.forget, *data.alternatives.values()], data.seed)

    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference, answer: Group | None = None) -> Terms:
        assert answer is not None
        lost, won = (-sequence_nll(model, g) - reference.log_probability(g) for g in (forget, answer))
        per_pair = -2 / self.beta * F.logsigmoid(self.beta * (won - lost))
        return {
            "forget": Term((per_pair * forget.real).sum(), "sequences", "forget", self.gamma),
            "retain": retain_term(self.retain_loss, model, retain, reference, self.alpha),
        }

    def _answer(self, held: Subject, data: UnlearningData, row: Row) -> Row:
        if self.answer == "idk":
            text = " " + REFUSALS[int(rng(data.seed, "refusal", row.name).integers(len(REFUSALS)))]
            ids: Any = held.tokenizer(text, add_special_tokens=False)["input_ids"]
            return Row((*row.ids[: row.scored_from], *ids), row.scored_from)
        if row.name not in data.alternatives:
            raise UserError(f"dpo: the memory {row.name!r} has no `alternative` continuation; write one, or set answer=idk.")
        return data.alternatives[row.name]


def _opening(data: UnlearningData, row: Row) -> int:
    if row.name not in data.openings:
        raise UserError(f"dpo: it is not known where the opening of {row.name!r} ends; expected an entry of `openings`.")
    return data.openings[row.name]
