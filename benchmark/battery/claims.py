"""Are the lengths true that a search claims? A sample of its answers is read again from the prompts that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..attack_tools.bases import Searching, Workshop
from ..common.errors import UserError
from ..common.seeds import rng
from ..common.types import Answer, EncodedMemory
from ..models.subject import Subject
from ..reading.reader import copied

LONGEST, OTHERS = 8, 4  # answers that are read again: those with the longest claims, and some of the rest
CLOSE = 0.02  # logits; what lies nearer may fall either way, since a search adds up in another order


def reread_claims(
    name: str, attack: Searching, subject: Subject, answers: Sequence[Answer], of: Mapping[str, EncodedMemory], tools: Workshop
) -> None:
    """Refuse what cannot be true; read a sample again. What must hold is told by the attack's `claims`."""
    for a in answers:
        m = of[a.memory]
        if not 0 <= a.matched <= a.horizon <= len(m.row) - a.offset:
            raise UserError(
                f"attack {name}: {a.matched} of {a.horizon} tokens from token {a.offset} of memory {m.id!r}, whose row has "
                f"{len(m.row)}; expected 0 <= matched <= horizon, and a horizon within the row."
            )
    if attack.claims == "none":
        if not attack.diagnostic:
            raise UserError(f'attack {name}: claims = "none" is for diagnostics; lengths that count must be such as can be read again.')
        return
    for a in sample(name, answers, tools.seed):
        least, most = bounds(attack, subject, a, of[a.memory], tools)
        if not least <= a.matched <= most:
            what = {"greedy": "says", "beam": f"keeps in {a.width} beams", "sample": f"draws from {a.width} likeliest tokens"}
            read = str(least) if least == most else f"{least} to {most}"
            raise UserError(
                f"attack {name}: it claims {a.matched} tokens of memory {a.memory!r} (variant {a.variant!r}), but after that "
                f"prompt the model {what[attack.claims]} {read}. Take lengths from a Reader, and give the prompt's ids where encoding "
                "its text gives others."
            )


def sample(name: str, answers: Sequence[Answer], seed: int) -> list[Answer]:
    """The longest claims and a few others, drawn with the seed."""
    order = sorted(answers, key=lambda a: (-a.matched, a.memory, a.variant))
    rest = order[LONGEST:]
    drawn = sorted(rng(seed, "claims", name).permutation(len(rest))[:OTHERS])
    return order[:LONGEST] + [rest[i] for i in drawn]


@torch.no_grad()
def bounds(attack: Searching, subject: Subject, a: Answer, m: EncodedMemory, tools: Workshop) -> tuple[int, int]:
    """The least and the greatest length that can be true, from one forward pass of the model over prompt and target.

    A search loses the target where `width` other tokens outrank the target's, and keeps it for sure while the target's probability
    exceeds 1 / (width + 1). One beam is greedy, and ends where any token outranks. A sample can hold every token that fewer than
    `width` outrank. Where the two bounds of a greedy length are apart, a decision was close.
    """
    prompt = tuple(a.ids) or (m.row[a.start : a.offset] if a.start >= 0 else tools.encode(a.prompt))
    target = m.row[a.offset : a.offset + a.horizon]
    width = 1 if attack.claims == "greedy" else a.width
    if not target or not subject.with_bos(prompt):
        return 0, 0
    ids = torch.tensor([subject.with_bos(prompt + target)], device=next(subject.model.parameters()).device)
    logits = subject.model(input_ids=ids).logits[0, -len(target) - 1 : -1].double().cpu()
    mine = logits.gather(1, torch.tensor(target)[:, None])
    above = (logits > mine + CLOSE).sum(1).numpy()
    most = _streak(above < width)
    if attack.claims == "sample":
        return 0, most
    if width == 1:
        least = _streak((logits > mine - CLOSE).sum(1).numpy() < 2)  # the target's own token is one
        if a.matched < least:  # copying counts as nothing, and what stands between a model and its output can cut it short
            copy = a.matched == 0 and any(copied(prompt, target[:n]) for n in range(least, most + 1))
            least = a.matched if copy or _said(subject, prompt, target) == a.matched else least
        return least, most
    likely = logits.log_softmax(-1).gather(1, torch.tensor(target)[:, None])[:, 0].cumsum(0).numpy()
    return min(_streak(likely > CLOSE - np.log(width + 1)), most), most


def _said(subject: Subject, prompt: tuple[int, ...], target: tuple[int, ...]) -> int:
    """Tokens that greedy generation gives: fewer than are read where something stands between the model and its output."""
    (said,) = subject.generate([prompt], len(target))
    return _streak(np.array(said[: len(target)]) == np.array(target))


def _streak(holds: np.ndarray) -> int:
    """How many hold, up to the first that does not."""
    return len(holds) if holds.all() else int(holds.argmin())
