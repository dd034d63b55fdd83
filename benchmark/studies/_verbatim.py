"""The verbatim memorised length of texts under a model: the longest true continuation of any window, in ids and in characters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...leaderboard.statistics import Estimate, mean
from ..attack_tools.bases import Tools
from ..common.plugins import find
from ..common.types import HORIZON, EncodedMemory, Memory, Probe
from ..models.subject import Subject
from ..reading.cache import digests
from ..reading.reader import Reader, spans_of


@dataclass(frozen=True)
class Verbatim:
    """Of one text. A match that only copies its prompt counts as 0, except in `apparent`."""

    tokens: int  # the longest match by ids over all windows, of at most 64
    apparent: int  # the same with copies counted: what is seen by whoever only looks at the output
    characters: int  # the longest match of letters and digits, case ignored, over prefixes of 8 to 64 tokens and the best window
    again: int  # those characters in tokens: the beginning of the true continuation that holds them, tokenised


def text_memory(name: str, text: str, row: Sequence[int], opening: int, domain: str = "") -> EncodedMemory:
    """A text that is no shipped passage, as probes want it; `opening` in tokens."""
    return EncodedMemory(Memory(name, domain, text, 1), "unseen", False, tuple(row), opening, text)


def verbatim(subject: Subject, memories: Sequence[EncodedMemory], stride: int, precision: str) -> list[Verbatim]:
    """Of each text: windows of 8, 16, 32 and 64 tokens from every `stride`-th start, and the exact prefixes."""
    tools = Tools(subject)
    asks = [find("attack", "prefix").make({}), find("attack", "shifted_window").make({"stride": stride})]
    probes = [(i, p) for i, m in enumerate(memories) for attack in asks for p in attack.probes(m, tools)]
    reader = Reader(subject, precision)
    read = reader.read([p for _, p in probes])
    best: dict[int, tuple[int, tuple[int, ...], int]] = {}  # matched, prompt, where in the row it ends
    apparent = dict.fromkeys(range(len(memories)), 0)
    for (i, p), lengths in zip(probes, read, strict=True):
        for cut, length in zip(p.cuts, lengths, strict=True):
            if i not in best or length > best[i][0]:
                best[i] = (length, p.prompt + p.target[:cut], p.offset + cut)
        apparent[i] = max(apparent[i], *with_copies(reader, p))
    said = _normalised(subject, memories, {i: [*_prefixes(probes, i), place[1:]] for i, place in best.items()})
    return [Verbatim(best[i][0], apparent[i], *said[i]) for i in range(len(memories))]


def with_copies(reader: Reader, p: Probe) -> list[int]:
    """The matched length after each cut of a probe that was read, copies counted."""
    return [reader.lengths[d] for d in digests(p.prompt + p.target, spans_of(p), p.layer)]


def _prefixes(probes: Iterable[tuple[int, Probe]], i: int) -> list[tuple[tuple[int, ...], int]]:
    # The exact opening is of another length in every text, and prompts of one length are generated from together.
    return [(p.target[:cut], cut) for at, p in probes if at == i and p.start == 0 for cut in p.cuts[1:]]


def _normalised(
    subject: Subject, memories: Sequence[EncodedMemory], asked: Mapping[int, Sequence[tuple[tuple[int, ...], int]]]
) -> dict[int, tuple[int, int]]:
    """Text -> characters and tokens of the longest normalised match after its prompts (prompt, end in the row)."""
    prompts = list(dict.fromkeys(prompt for places in asked.values() for prompt, _ in places))
    said = dict(zip(prompts, subject.generate(prompts, HORIZON), strict=True))
    out = {}
    for i, places in asked.items():
        found = []
        for prompt, end in places:
            true = _text(subject, memories[i].row[end : end + HORIZON])
            matched = common(normal(_text(subject, said[prompt])), normal(true))
            copied = normal(true)[:matched] in normal(_text(subject, prompt))
            found.append((0 if copied else matched, true))
        characters, true = max(found, key=lambda pair: pair[0])
        out[i] = (characters, len(subject.tokenizer(beginning(true, characters), add_special_tokens=False)["input_ids"]))
    return out


def normal(text: str) -> str:
    """Letters and digits alone, in lower case."""
    return "".join(c for c in text.lower() if c.isalnum())


def common(a: str, b: str) -> int:
    """Characters of the common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def beginning(text: str, characters: int) -> str:
    """The shortest beginning of a text that holds so many normalised characters."""
    end = 0
    while len(normal(text[:end])) < characters:
        end += 1
    return text[:end]


def _text(subject: Subject, ids: Sequence[int]) -> str:
    return subject.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)


def mean_over_seeds(rows: Iterable[Mapping[str, Any]], quantity: str, **wanted: Any) -> Estimate:
    """The mean of a length over the rows that have the wanted values, with its interval over seeds; no length is below 0."""
    groups: dict[int, list[float]] = {}
    for row in rows:
        if all(row[k] == v for k, v in wanted.items()):
            groups.setdefault(row["seed"], []).append(row[quantity])
    return mean([groups[seed] for seed in sorted(groups)]).within(0, float("inf"))


def shuffled(m: EncodedMemory, order: Sequence[int], subject: Subject) -> EncodedMemory:
    """The same tokens in another order, under a name of its own."""
    row = tuple(m.row[i] for i in order)
    return replace(m, memory=replace(m.memory, id=f"{m.id}~"), row=row, text=_text(subject, row))
