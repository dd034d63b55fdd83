"""Whether another length could be right as well, since at its end two logits tie.

Readings in fp32 are equal on one machine whatever else is asked, and in whatever precision rows were asked first. On another kind of
machine sums are made in another order: logits move by some 1e-5, and where the two likeliest tokens are closer than that, either may win.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..common.processes import device
from ..common.types import Probe
from ..models.lens import layer_states
from ..models.logits import logits_of
from ..models.subject import Subject
from ..reading.margins import TIE
from ..reading.reader import spans_of, without_copying


def could_be(subject: Subject, probes: Sequence[Probe], variant: str, matched: int) -> bool:
    """Whether the best of these probes' answers under a variant could be `matched` tokens, if near ties went the other way."""
    sets = [found for p in probes for found in _lengths(subject, p, variant)]
    return any(matched in found for found in sets) and all(min(found) <= matched for found in sets)


def _lengths(subject: Subject, probe: Probe, variant: str) -> list[set[int]]:
    """For each cut of the variant the lengths that it could have."""
    margins = _margins(subject, probe)
    out = []
    for name, (begin, end) in zip(probe.variants, spans_of(probe), strict=True):
        if name == variant:
            m = margins[begin:end]
            ends = [n for n in range(len(m) + 1) if (m[:n] > -TIE).all() and (n == len(m) or m[n] < TIE)]
            out.append({without_copying(probe, (begin, end), n) for n in ends})
    return out


@torch.no_grad()
def _margins(subject: Subject, probe: Probe) -> np.ndarray:
    """For each token of prompt and target the logit of the true one less the largest of the others; NaN where nothing stands before."""
    row = probe.prompt + probe.target
    given = torch.tensor([subject.with_bos(row)], device=device())
    if probe.layer is None:
        logits = subject.model(input_ids=given).logits[0].float()
    else:
        logits = logits_of(subject.model, layer_states(subject.model, given)[probe.layer])[0].float()
    true = torch.tensor(row, device=logits.device)[-(logits.shape[0] - 1) :]
    behind = logits[:-1].clone()
    mine = behind.gather(1, true[:, None])[:, 0]
    behind.scatter_(1, true[:, None], -torch.inf)
    found = (mine - behind.max(1).values).cpu().numpy()
    return np.concatenate([np.full(len(row) - len(found), np.nan), found])
