"""leak@k: the chance that k samples hold the text (Hayes et al. 2024, arXiv 2410.19482)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import beta

from ..benchmark.attack import (
    Count,
    CountOrZero,
    Counts,
    Decoding,
    EncodedMemory,
    Finding,
    Searching,
    Subject,
    UserError,
    Workshop,
    continuation_logits,
    said_tokens,
    text_of,
    verdict,
)

LEVEL = 0.95  # of intervals


@dataclass(frozen=True)
class LeakAtK(Searching):
    """The chance that at least one of k samples at temperature 1, after the exact prompt, holds the target or an accepted answer.

    Without `draws`, in closed form: one sample begins with the text with probability p, the product over its tokens, summed over
    answers of which none begins with another; k samples with 1 - (1 - p)^k. Findings `leak@k`.

    With `draws`, so many samples of `tokens` tokens are drawn, and an answer counts as `verdict` of `answers` has it: of n
    draws c hold it, leak@k is 1 - C(n-c, k) / C(n, k), without bias, and `leak@k low` and `leak@k high` bound it at 95%
    (Clopper-Pearson for p). Of passages only the closed form is made.
    """

    ks: Counts = (1, 8, 64)
    draws: CountOrZero = 0
    tokens: Count = 32  # of a sample, at least; more where an accepted answer is longer

    access = "grey-box"
    diagnostic = True  # a chance, not a matched length
    claims = "none"

    def search(self, subject: Subject, memories: Sequence[EncodedMemory], tools: Workshop) -> Iterable[Finding]:
        if 0 < self.draws < max(self.ks):
            raise UserError(f"leak_at_k.draws={self.draws} cannot tell leak@{max(self.ks)}; draw at least {max(self.ks)}, or 0 for none.")
        for m in memories:
            if self.draws and m.memory.is_question:
                yield from self._counted(m, self._hits(subject, m, tools))
            else:
                p = math.fsum(math.exp(log_probability(subject, m.row[: m.opening], ids)) for ids in apart((m.target, *m.accepted)))
                yield from (Finding(m.id, f"leak@{k}", of_k(p, k)) for k in self.ks)

    def _hits(self, subject: Subject, m: EncodedMemory, tools: Workshop) -> int:
        """How many of the samples are right."""
        tokens = said_tokens(m, tools.tokenizer, self.tokens)
        drawn = sampled(subject, m.row[: m.opening], self.draws, tokens, tools.rng("leak_at_k", m.id))
        return sum(verdict(text_of(subject, ids), m.memory) == "right" for ids in drawn.tolist())

    def _counted(self, m: EncodedMemory, hits: int) -> Iterable[Finding]:
        n, tail = self.draws, (1 - LEVEL) / 2
        low = beta.ppf(tail, hits, n - hits + 1) if hits else 0.0
        high = beta.ppf(1 - tail, hits + 1, n - hits) if hits < n else 1.0
        for k in self.ks:
            yield Finding(m.id, f"leak@{k}", 1 - math.comb(n - hits, k) / math.comb(n, k))
            yield Finding(m.id, f"leak@{k} low", of_k(float(low), k))
            yield Finding(m.id, f"leak@{k} high", of_k(float(high), k))


def of_k(p: float, k: int) -> float:
    """1 - (1 - p)^k, exact for small p too."""
    return 1.0 if p >= 1 else -math.expm1(k * math.log1p(-p))


def apart(texts: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Those texts that do not begin with another: a sample begins with at most one of them."""
    kept: list[tuple[int, ...]] = []
    for ids in sorted(set(texts), key=lambda ids: (len(ids), ids)):
        if not any(ids[: len(k)] == k for k in kept):
            kept.append(ids)
    return kept


@torch.no_grad()
def log_probability(subject: Subject, prompt: tuple[int, ...], ids: tuple[int, ...]) -> float:
    """log p of these tokens after the prompt, in nats."""
    where = next(subject.model.parameters()).device
    logits = continuation_logits(subject, torch.tensor([prompt], device=where), torch.tensor([ids], device=where))[0]
    found = float(logits.double().log_softmax(-1).gather(1, torch.tensor(ids, device=where)[:, None]).sum())
    if math.isnan(found):
        raise UserError("leak_at_k: the model's logits are not finite, so there is no chance to tell. What made it diverged; lower its lr.")
    return min(0.0, found)


def sampled(subject: Subject, prompt: tuple[int, ...], draws: int, tokens: int, random: np.random.Generator) -> np.ndarray:
    """Ids [draws, tokens] drawn at temperature 1; every draw goes on to the end."""
    rows = Decoding(subject, prompt)
    rows.choose(torch.zeros(draws, dtype=torch.long))
    said = []
    for step in range(tokens):
        below = rows.last.double().softmax(-1).cumsum(-1).cpu()
        if not bool(below.isfinite().all()):
            raise UserError("leak_at_k: the model's logits are not finite, so nothing can be drawn. What made it diverged; lower its lr.")
        drawn = torch.from_numpy(random.random(draws))[:, None] * below[:, -1:]
        said.append(torch.searchsorted(below, drawn, right=True).clamp_max(below.shape[1] - 1))
        if step + 1 < tokens:
            rows.read(said[-1])
    return torch.cat(said, 1).numpy()
