"""What measures of other papers are made of: what one model says about one text."""

from __future__ import annotations

from dataclasses import dataclass, field

MEMBERS = "members"  # the group of passages that a set names as members for PrivLeak


@dataclass(frozen=True)
class AnswerReading:
    """What one model says about one text, and about its other answers: what measures of other papers are made of.

    `log_probabilities` are of all tokens after the first, in nats; `likeliest` of the answer's (a passage's continuation): whether each is
    the likeliest given the true ones before. Means are over tokens.
    """

    method: str
    seed: int
    memory: str
    role: str
    group: str  # of further texts that only these measures ask: real authors, world facts, members; else ""
    kind: str
    mean_log: float  # of the answer's tokens
    right: tuple[float, ...] = field(repr=False)  # the same of each further accepted answer
    wrong: tuple[float, ...] = field(repr=False)  # and of each wrong one
    likeliest: tuple[bool, ...] = field(repr=False)
    log_probabilities: tuple[float, ...] = field(repr=False)
    said: str = ""  # generated greedily after the exact opening
    truth: str = ""
