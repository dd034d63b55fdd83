"""Slow and plain counterparts of what attacks compute."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.common.types import EncodedMemory, TokenReading
from palimpsest.benchmark.models.subject import Subject


@torch.no_grad()
def log_probabilities(subject: Subject, ids: tuple[int, ...]) -> Tensor:
    """Log-probabilities [N, V] in double precision of what comes at each place of `ids`; NaN where nothing stands before."""
    given = torch.tensor([subject.with_bos(ids)], device=device())
    found = subject.model(input_ids=given).logits[0].cpu().double().log_softmax(-1)
    lead = given.shape[1] - len(ids)
    return found[:-1] if lead else torch.cat([torch.full_like(found[:1], torch.nan), found[:-1]])


def reading(subject: Subject, memory: EncodedMemory, top: int = 40) -> TokenReading:
    """What the model says about every token of the row."""
    found = log_probabilities(subject, memory.row)
    truth = found.gather(1, torch.tensor(memory.row)[:, None])
    mean = (found.exp() * found).sum(1)
    deviation = ((found.exp() * found.square()).sum(1) - mean.square()).clamp(min=0).sqrt()
    rank = (found > truth).sum(1).numpy()
    mass = found.nan_to_num().topk(top).values.logsumexp(1)
    unknown = torch.isnan(truth[:, 0]).numpy()
    rank[unknown] = -1
    return TokenReading(memory.id, truth[:, 0].numpy(), mean.numpy(), deviation.numpy(), rank, np.where(unknown, np.nan, mass.numpy()))


def window(memory: EncodedMemory, start: int, opening: int) -> EncodedMemory:
    """The same memory as if its text began at token `start`, with an opening of so many tokens."""
    return replace(memory, row=memory.row[start:], opening=opening)
