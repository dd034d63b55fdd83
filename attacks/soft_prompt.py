"""Soft prompts: free embeddings in place of the opening (Schwinn et al. 2024, arXiv 2402.09063)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..benchmark.attack import (
    TOKENS,
    Answer,
    Count,
    EncodedMemory,
    Positive,
    Searching,
    Subject,
    Workshop,
    continuation_logits,
    last_tokens,
    replaced_embeddings,
)


@dataclass(frozen=True)
class SoftPrompt(Searching):
    """Embeddings optimised to elicit the target: a diagnostic only, since with enough of them any text can be had.

    They begin as the embeddings of the opening's last tokens and take its place. Adam, step size as a share of the
    root mean square of the embeddings; the loss is summed over memories, so that each is optimised by itself.
    """

    length: Count = 8  # soft tokens
    elicited: Count = 32  # tokens of the target whose loss is lowered
    steps: Count = 40
    lr: Positive = 0.1

    access = "white-box"
    tier = 3
    diagnostic = True
    claims = "none"  # embeddings are no tokens
    kinds = ("passage",)  # free embeddings say any short answer

    def search(self, subject: Subject, memories: Sequence[EncodedMemory], tools: Workshop) -> Iterable[Answer]:
        size = max(1, TOKENS // (self.length + self.elicited))
        for start in range(0, len(memories), size):
            part = memories[start : start + size]
            for m, matched in zip(part, self._matched(subject, part), strict=True):
                yield Answer(m.id, f"soft{self.length}", matched, len(m.target), f"[{self.length} soft tokens]", m.opening)

    def _matched(self, subject: Subject, memories: Sequence[EncodedMemory]) -> list[int]:
        where = next(subject.model.parameters()).device
        prompts = torch.tensor([last_tokens(m, self.length) for m in memories], device=where)
        targets = torch.tensor([m.target for m in memories], device=where)
        lead = 0 if subject.bos is None else 1
        soft: list[Tensor] = []  # [n, length, H], one for each table of embeddings

        def put(number: int, out: Tensor) -> Tensor:
            if number == len(soft):
                soft.append(out[:, lead : lead + self.length].detach().clone().requires_grad_())
            return torch.cat([out[:, :lead].detach(), soft[number], out[:, lead + self.length :].detach()], 1)

        with replaced_embeddings(subject.model, put) as seen:
            wanted = targets[:, : self.elicited]
            with torch.no_grad():
                continuation_logits(subject, prompts, wanted[:, :1])
            scale = [table.weight.detach().square().mean().sqrt().item() for table, _ in seen]
            adam = torch.optim.Adam([{"params": [s], "lr": self.lr * rms} for s, rms in zip(soft, scale, strict=True)])
            for _ in range(self.steps):
                logits = continuation_logits(subject, prompts, wanted)
                loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum") / wanted.shape[1]
                for s, gradient in zip(soft, torch.autograd.grad(loss, soft), strict=True):
                    s.grad = gradient
                adam.step()
                seen.clear()
            with torch.no_grad():
                said = continuation_logits(subject, prompts, targets).argmax(-1)
        return (said == targets).long().cumprod(1).sum(1).tolist()
