"""Searches for the further accepted answers of questions: each is looked for as the answer itself is, by the same attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..attack_tools.bases import Attack, Searching
from ..common.types import EncodedMemory
from .answers import BestAnswer


def stand_ins(attack: Attack, memories: Sequence[EncodedMemory]) -> dict[str, tuple[EncodedMemory, EncodedMemory]]:
    """Id -> a question with an accepted answer in place of its own, under that id, and the question itself.

    Passages have none, and neither do attacks that are no search or whose lengths do not count.
    """
    found = {}
    for m in memories if isinstance(attack, Searching) and attack.claims != "none" else ():
        for k, ids in enumerate(m.accepted, 2):
            name = f"{m.id}, answer {k}"
            found[name] = (replace(m, memory=replace(m.memory, id=name), row=m.row[: m.opening] + ids, accepted=()), m)
    return found


def with_whole_answers(found: Sequence[BestAnswer], others: Mapping[str, tuple[EncodedMemory, EncodedMemory]]) -> list[BestAnswer]:
    """The answers, with one about a stand-in that came back whole as the whole answer of its question, after the prompt that was found.

    Less of another answer is nothing. Of one question and variant the better stays.
    """
    whole: dict[tuple[str, str, int, int], BestAnswer] = {}
    for a in found:
        other, m = others.get(a.memory, (None, None))
        if other and m and a.offset == m.opening and a.matched == a.horizon == len(other.target):
            whole[m.id, a.variant, a.fold, a.offset] = replace(a, memory=m.id, matched=len(m.target), horizon=len(m.target))
    kept = []
    for a in found:
        if a.memory not in others:
            better = whole.pop((a.memory, a.variant, a.fold, a.offset), a)
            kept.append(better if better.matched > a.matched else a)
    return [*kept, *whole.values()]
