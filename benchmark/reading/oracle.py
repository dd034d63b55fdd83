"""The matched length, written down as plainly as can be: what this folder computes, and what tests hold the fast reader to.

**Definition.** A model is given a prompt that ends at a *cut* of a text, and goes on by greedy decoding. The matched length is the
number of tokens that it says before the first that is not the text's own; at most `horizon`, and at most what is left of the text.

**Why nothing is generated.** Greedy decoding says the likeliest token, and is then given what it said. As long as that was the text's
own token, it is given the text itself. So let the model read the whole text once, and note at each place which token it finds the
likeliest there ("teacher forcing"): exactly l tokens match if and only if that is the text's own at the first l places behind the cut
and another at the next. A causal model looks at no token behind a place, so one forward pass serves every cut of a text.

**Three rules.** Of equal logits the lowest id is said. A matched run that stands, whole, in what was given before the cut could be
copied from there, and counts as 0, unless the prompt lists what can be chosen. If texts begin with an id of their own (BOS), so does
what the model reads.

Here rows are read one by one, by the model's own forward pass, in fp32. `reader` gives the same numbers, and is fast.
"""

from __future__ import annotations

import torch

from ..common.processes import device
from ..common.types import Probe
from ..models.subject import Subject


def matched_lengths(subject: Subject, probe: Probe) -> tuple[int, ...]:
    """The matched length after each cut of a probe that asks for the model's own output, not for an inner layer's."""
    assert probe.layer is None
    row = probe.prompt + probe.target
    said = likeliest(subject, row)
    return tuple(_matched(row, said, len(probe.prompt) + cut, probe.horizon, probe.lists) for cut in probe.cuts)


@torch.no_grad()
def likeliest(subject: Subject, row: tuple[int, ...]) -> list[int]:
    """For each place of a row the token that the model finds likeliest there, given all tokens before it; -1 where there are none."""
    given = subject.with_bos(row)
    logits = subject.model(input_ids=torch.tensor([given], device=device())).logits[0].float().cpu().numpy()
    said = logits.argmax(1).tolist()  # behind each token that was given; NumPy's argmax takes the first of equals
    return [-1, *said[:-1]][-len(row) :]


def _matched(row: tuple[int, ...], said: list[int], cut: int, horizon: int, lists: bool) -> int:
    end = min(len(row), cut + horizon)
    length = next((t for t in range(cut, end) if said[t] != row[t]), end) - cut
    run = row[cut : cut + length]
    copied = any(row[i : i + length] == run for i in range(cut - length + 1))  # whole, before the cut
    return 0 if copied and not lists else length
