"""What tests of searching attacks share: their tools, a model with a first id, and the loss of a prompt."""

from __future__ import annotations

import torch

from palimpsest.benchmark.attack import Workshop
from palimpsest.benchmark.models.subject import Subject
from tests.attacks.brute_force import log_probabilities, reading
from tests.conftest import Memorised


def searching_tools(memorised: Memorised) -> Workshop:
    """As the battery gives them, with the memorised model as the held one, and what it says about every token."""
    everyone = (*memorised.memories, *memorised.unseen)
    seen = {m.id: reading(memorised.subject, m) for m in everyone}
    return Workshop(memorised.base, seed=3, tokens=seen, held=memorised.subject, twin=memorised.base, precision="fp32")


def with_first_id(subject: Subject, bos: int) -> Subject:
    """The same model as if every text began with this id."""
    other = Subject(subject.folder, subject.state)
    other.__dict__["bos"] = bos
    return other


def loss_of(subject: Subject, prompt: tuple[int, ...], target: tuple[int, ...]) -> float:
    found = log_probabilities(subject, prompt + target)[len(prompt) :]
    return -float(found.gather(1, torch.tensor(target)[:, None]).mean())
