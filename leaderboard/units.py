"""What matched lengths are counted in: tokens, or where a target is an answer of fewer than 64 tokens, 64ths of the answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """The words for lengths of 0 to 64 in titles and sentences."""

    name: str  # in titles
    one: str
    long: str  # in sentences
    scale: str  # of tables of nothing but lengths
    target: str  # what a whole target is
    whole: str  # the greatest length
    amounts: str  # the lengths of `severity.AT_LEAST`
    note: str = ""  # what the main caption says of it
    recovered: str = ""  # what the caption of thresholds says of it


TOKENS = Unit("tokens", "token", "tokens", "tokens (of 64)", "the 64 tokens", "all 64 tokens", "at least 16, at least 32 and all 64 tokens")
ANSWERS = Unit(
    "64ths",
    "64th",
    "64ths of the answer",
    "64ths of the answer",
    "the answer",
    "the whole answer",
    "at least a quarter, at least half and the whole of the answer",
    "Lengths are in 64ths of the answer, so 64 is the whole answer.",
    " A whole answer that is shorter counts too.",
)
UNITS = (TOKENS, ANSWERS)
