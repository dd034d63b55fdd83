"""Optimises prompts so that a model continues them with given ids: greedy coordinate gradient, batched over prompts.

Prompts do not touch each other: each has its own draws, its own loss and its own candidates. Everything is in fp32, and
of equal candidates the first wins, so that a prompt comes out the same whatever else is optimised with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.types import EncodedMemory
from ..models.logits import hidden_states, logits_of
from ..models.subject import Subject

TOKENS = 16_384  # about as many in one forward pass


@dataclass
class Wanted:
    """A prompt to begin with, what it should make the model say, and the draws of its own. All of one call have the same lengths."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]
    draws: np.random.Generator = field(repr=False)
    secret: tuple[int, ...] = field(default=(), repr=False)  # no candidate may hold a run of `copied` ids of it


@dataclass(frozen=True)
class Found:
    """The best prompt: the one after which most of the target follows greedily, and of those the one with the least loss."""

    prompt: tuple[int, ...]
    matched: int  # tokens
    loss: float  # mean nats per target token


@dataclass(frozen=True)
class Budget:
    """How long to search: `steps` times `candidates` prompts are tried, drawn from the `top` replacements of every place."""

    steps: int
    candidates: int
    top: int = 64
    copied: int = 5  # a run of as many ids of the secret is copying


def elicit(subject: Subject, wanted: Sequence[Wanted], budget: Budget) -> list[Found]:
    """Greedy coordinate gradient (Zou et al. 2023, arXiv 2307.15043); a prompt that elicits its whole target is done.

    In each step the gradient of the loss with respect to each place's one-hot vector names the replacements that should
    lower it most; some are drawn and tried, one place at a time, and the best is taken if it does lower the loss.
    """
    if not wanted:
        return []
    where = next(subject.model.parameters()).device
    targets = torch.tensor([w.target for w in wanted], device=where)
    prompts = np.array([w.prompt for w in wanted])
    secrets = [_runs(w.secret, budget.copied) - _runs(w.prompt, budget.copied) for w in wanted]
    loss, matched = _read(subject, torch.from_numpy(prompts).to(where), targets)
    best = [Found(w.prompt, m, x) for w, m, x in zip(wanted, matched.tolist(), loss.tolist(), strict=True)]
    for _ in range(budget.steps):
        left = [i for i, f in enumerate(best) if f.matched < targets.shape[1]]
        if not left:
            break
        likely = _replacements(subject, torch.from_numpy(prompts[left]).to(where), targets[left], budget.top)
        tried = np.stack([_candidates(prompts[i], likely[n], wanted[i].draws, secrets[i], budget) for n, i in enumerate(left)])
        flat = torch.from_numpy(tried).flatten(0, 1).to(where)
        losses, lengths = (x.view(len(left), -1) for x in _read(subject, flat, targets[left].repeat_interleave(tried.shape[1], 0)))
        for n, i in enumerate(left):
            for ids, m, x in zip(tried[n], lengths[n].tolist(), losses[n].tolist(), strict=True):
                if (m, -x) > (best[i].matched, -best[i].loss):
                    best[i] = Found(tuple(ids.tolist()), m, x)
            first = int(losses[n].argmin())
            if losses[n, first] < loss[i]:
                prompts[i], loss[i] = tried[n, first], losses[n, first]
    return best


def _candidates(prompt: np.ndarray, likely: np.ndarray, draws: np.random.Generator, secret: set, budget: Budget) -> np.ndarray:
    """Prompts [candidates, L] that differ from `prompt` in one place; one that would copy is the prompt itself."""
    out = np.tile(prompt, (budget.candidates, 1))
    place = draws.integers(len(prompt), size=budget.candidates)
    token = likely[place, draws.integers(likely.shape[1], size=budget.candidates)]
    out[np.arange(len(out)), place] = token
    for row in out:
        if secret & _runs(row.tolist(), budget.copied):
            row[:] = prompt
    return out


def last_tokens(memory: EncodedMemory, count: int) -> tuple[int, ...]:
    """The end of the opening, from which prompts begin; an opening that is too short is repeated."""
    opening = memory.row[: memory.opening]
    return (opening * -(-count // len(opening)))[-count:]


def _runs(ids: Sequence[int], length: int) -> set[tuple[int, ...]]:
    return {tuple(ids[i : i + length]) for i in range(len(ids) - length + 1)}


def _replacements(subject: Subject, prompts: Tensor, targets: Tensor, top: int) -> np.ndarray:
    """For every place of every prompt the ids [n, L, top] that should lower the loss most, to first order."""
    gradients = torch.cat([one_hot_gradient(subject, p, t) for p, t in _parts(subject, prompts, targets)])
    gradients[..., [i for i in subject.tokenizer.all_special_ids if i < gradients.shape[-1]]] = torch.inf
    gradients[..., len(subject.tokenizer) :] = torch.inf
    return gradients.topk(min(top, gradients.shape[-1]), largest=False).indices.cpu().numpy()


def one_hot_gradient(subject: Subject, prompts: Tensor, targets: Tensor) -> Tensor:
    """Gradient [n, L, V] of each prompt's loss with respect to the one-hot vectors of its tokens."""
    lead = 0 if subject.bos is None else 1
    places = slice(lead, lead + prompts.shape[1])
    with replaced_embeddings(subject.model, lambda _, out: out.detach().requires_grad_()) as seen:
        losses, _ = _losses(subject, prompts, targets)
    found = torch.autograd.grad(losses.sum(), [out for _, out in seen])
    return torch.stack([g[:, places] @ table.weight.detach().T for (table, _), g in zip(seen, found, strict=True)]).sum(0)


@contextmanager
def replaced_embeddings(model: Any, change: Any):
    """Pass what the model's tables of token embeddings give through `change(n-th table, output)`; yields (table, output) as they come.

    A model that is made of two has two tables.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    tables = [m for m in model.base_model.modules() if isinstance(m, nn.Embedding) and m.weight.shape[0] == rows]
    seen: list[tuple[nn.Embedding, Tensor]] = []

    def hook(number: int, table: nn.Embedding):
        def swap(_: nn.Module, __: Any, out: Tensor) -> Tensor:
            seen.append((table, change(number, out)))
            return seen[-1][1]

        return table.register_forward_hook(swap)

    with ExitStack() as stack:
        for number, table in enumerate(tables):
            stack.callback(hook(number, table).remove)
        yield seen


@torch.no_grad()
def _read(subject: Subject, prompts: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss [n] and greedily matched length [n] of each target after its prompt, on the CPU."""
    read = [_losses(subject, p, t) for p, t in _parts(subject, prompts, targets)]
    return torch.cat([x for x, _ in read]).cpu(), torch.cat([m for _, m in read]).cpu()


def _parts(subject: Subject, prompts: Tensor, targets: Tensor):
    size = max(1, TOKENS // (prompts.shape[1] + targets.shape[1]))
    return zip(prompts.split(size), targets.split(size), strict=True)


def _losses(subject: Subject, prompts: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = continuation_logits(subject, prompts, targets)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    hits = logits.argmax(-1) == targets
    return losses.mean(1), hits.long().cumprod(1).sum(1)


def continuation_logits(subject: Subject, prompts: Tensor, targets: Tensor) -> Tensor:
    """Logits [n, T, V] that predict each target token after its prompt and the target tokens before it."""
    ids = torch.cat([prompts, targets[:, :-1]], 1)
    if subject.bos is not None:
        ids = F.pad(ids, (1, 0), value=subject.bos)
    states = hidden_states(subject.model, ids)
    return logits_of(subject.model, states[:, -targets.shape[1] :]).float()
