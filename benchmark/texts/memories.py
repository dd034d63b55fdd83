"""Loads, checks, assigns and tokenises memories."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import UserError
from ..common.lines import json_lines
from ..common.memory import TEXTS
from ..common.paths import CONFIGS
from ..common.types import HORIZON, EncodedMemory, Memory, Role, memory_from
from .neardup import doubles, overlap, run_hashes, words
from .questions import asked_twice, encode_question, joined, require_whole
from .sets.named import aside_of, is_named, memories_of

PASSAGES = CONFIGS / "memories" / "passages.jsonl"
ROLES: tuple[Role, ...] = ("forget", "keep", "unseen")

_EMAIL = re.compile(r"[\w.+-]+@([\w-]+(?:\.[\w-]+)+)")
_SITE = re.compile(r"\b(?:https?://|www\.)([\w-]+(?:\.[\w-]+)+)")
_RESERVED_HOST = re.compile(r"(^|\.)example\.(com|org|net)$|\.(example|test|invalid)$")
_PHONE = re.compile(r"\+?\(?\d[\d ()-]{5,}\d")
_RESERVED_PHONE = re.compile(r"5550?1\d\d$|^(44|0)?(1632960|7700900|2079460)\d{3}$")


def load_memories(path: str | Path = PASSAGES) -> list[Memory]:
    """Read a JSON-lines file of memories (`passages` is the shipped one), or a forget set (`tofu:forget10`, `tofu:/a/copy`)."""
    if is_named(str(path)):
        return _apart([_memory(given, str(path)) for given in memories_of(str(path))], str(path))
    file = PASSAGES if str(path) == "passages" else Path(path)
    if not file.is_file():
        raise UserError(f"There is no memories file {str(path)!r}; expected JSON lines, the word passages for the shipped ones, or a set.")
    memories = [_memory(given, f"{file}:{number}") for number, given in json_lines(file)]
    if not memories:
        raise UserError(f"{file} holds no memory; expected one JSON object a line with id, domain, text, opening_end.")
    return _apart(memories, str(file))


def _apart(memories: list[Memory], where: str) -> list[Memory]:
    """The memories, if each has an id of its own."""
    if twice := [name for name, count in Counter(m.id for m in memories).items() if count > 1]:
        raise UserError(
            f"{where}: the id {twice[0]!r} stands for more than one memory ({len(twice)} such ids); every memory needs its own."
        )
    return memories


def load_aside(path: str) -> list[Memory]:
    """What of a forget set only published measures ask; nothing of a file."""
    return [_memory(given, path) for given in aside_of(path)] if is_named(path) else []


def _memory(given: Any, where: str) -> Memory:
    """A memory from its JSON object; `where` names file and line in the error for what is wrong with it."""
    if not isinstance(given, dict):
        raise UserError(f"{where} is not a memory but a {type(given).__name__}; expected a JSON object with id, domain, text, opening_end.")
    given = joined(given, where)
    if missing := [k for k in ("id", "domain", "text", "opening_end") if k not in given]:
        raise UserError(f"{where} is not a memory: missing {', '.join(missing)}. Needed: id, domain, text, opening_end.")
    where += f", memory {given['id']!r}"
    for name in ("id", "domain", "text", "title", "alternative"):
        if not isinstance(value := given.get(name, ""), str):
            raise UserError(f"{where}: {name}={value!r}: expected a text.")
    for name in ("opening_end", "version"):
        if type(value := given.get(name, 1)) is not int:
            raise UserError(f"{where}: {name}={value!r}: expected a whole number.")
    for name in TEXTS:
        texts = given.get(name, [])
        if not isinstance(texts, list) or not all(isinstance(t, str) and t.strip() for t in texts):
            raise UserError(f"{where}: {name}={_short(texts)}: expected a list of texts, none of them empty.")
    if type(value := given.get("chat", False)) is not bool:
        raise UserError(f"{where}: chat={value!r}: expected true or false.")
    if (value := given.get("role", "")) not in ("", *ROLES):
        raise UserError(f"{where}: role={value!r}: expected {', '.join(ROLES)}, or none where roles are to be dealt.")
    m = memory_from(given)
    if not m.id.strip():
        raise UserError(f"{where}: the id is empty.")
    if not 0 < m.opening_end < len(m.text):
        raise UserError(f"{where}: opening_end={m.opening_end} is not inside its text of {len(m.text)} characters.")
    require_whole(m, where)
    return m


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 60 else said[:57] + "…"


def memories_hash(memories: Sequence[Memory]) -> str:
    """Over everything a model or an attack reads; titles do not count."""
    parts = [[m.id, m.domain, m.text, m.opening_end, m.paraphrases, m.alternative, m.version, *_more(m)] for m in memories]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _more(m: Memory) -> list[Any]:
    """What only questions and memories with a role of their own have; a plain passage adds nothing to a key."""
    asked = [m.kind, m.answers, m.wrong, m.aliases, m.two_hop, m.chat] if m.is_question else []
    return [*asked, *([m.role] if m.role else [])]


def assign_roles(memories: Sequence[Memory], seed: int, per_role: int, salt: str = "") -> dict[str, tuple[Role, bool]]:
    """id -> (role, shown). A Latin rotation: over three seeds every memory is forgotten, kept and unseen once.

    Each domain is cut into three equal parts in an order drawn from the ids and `salt` (a tuning run uses another
    salt, and so another partition than any table). Of each pair of a domain's keep memories one is shown to methods, and of
    those that have no pair every second one; shown and hidden swap in the second cycle of three seeds. With a smaller
    `per_role` each part gives up its last members.
    Where the memories bring roles of their own these hold in every seed, and `per_role` is how many of each are taken at most.
    """
    if any(m.role for m in memories):
        return _own_roles(memories, seed, per_role, salt)
    domain, domains = {m.id: m.domain for m in memories}, dict[str, list[str]]()
    for i, name in domain.items():
        domains.setdefault(name, []).append(i)
    if 3 * per_role > len(memories):
        raise UserError(f"per_role={per_role} needs {3 * per_role} memories; the file has {len(memories)}.")
    parts: list[list[tuple[str, int]]] = [[], [], []]
    for d, ids in enumerate(domains.values()):
        order = sorted(ids, key=lambda i: hashlib.sha256((salt + i).encode()).digest())
        for j, i in enumerate(order):
            parts[(j + d) % 3].append((i, j // 3))
    roles: dict[str, tuple[Role, bool]] = {}
    if (smallest := min(map(len, parts))) < per_role:
        raise UserError(f"per_role={per_role}: the domains of this file only allow {smallest}; lower it or even the domains out.")
    for p, part in enumerate(parts):
        role = ROLES[(p + seed) % 3]
        part.sort(key=lambda item: item[1])  # the same share of every domain at any per_role
        roles |= _dealt(part[:per_role], domain, role, seed)
    return roles


def _own_roles(memories: Sequence[Memory], seed: int, per_role: int, salt: str) -> dict[str, tuple[Role, bool]]:
    """Roles that the memories bring; each domain gives its share, in an order drawn from the ids and `salt`."""
    if without := [m.id for m in memories if not m.role]:
        raise UserError(f"Memory {without[0]!r} has no role, and others have ({len(without)} such); give one to all or to none.")
    domain, roles = {m.id: m.domain for m in memories}, dict[str, tuple[Role, bool]]()
    for role in ROLES:
        domains: dict[str, list[str]] = {}
        for m in sorted(memories, key=lambda m: hashlib.sha256((salt + m.id).encode()).digest()):
            if m.role == role:
                domains.setdefault(m.domain, []).append(m.id)
        part = sorted(((i, level) for ids in domains.values() for level, i in enumerate(ids)), key=lambda item: item[1])
        roles |= _dealt(part[:per_role], domain, role, seed)
    if "forget" not in {role for role, _ in roles.values()}:
        raise UserError("None of the memories has the role forget; there is nothing to unlearn.")
    return roles


def _dealt(part: Sequence[tuple[str, int]], domain: Mapping[str, str], role: Role, seed: int) -> dict[str, tuple[Role, bool]]:
    """Roles of one part, whose memories have a place in their domain each: what is shown goes by it, of those without a pair by turns."""
    many, roles, single = Counter(domain[i] for i, _ in part), dict[str, tuple[Role, bool]](), 0
    for i, place in part:
        alone = _single(many[domain[i]]) and place == many[domain[i]] - 1
        roles[i] = (role, role == "keep" and ((single if alone else place) + seed // 3) % 2 == 0)
        single += alone
    return roles


def _single(many: int) -> bool:
    """Whether of so many memories of a domain one has no pair: of a pair one is shown."""
    return many % 2 == 1


def shown_by_turns(memories: Sequence[EncodedMemory]) -> bool:
    """Whether several domains have a memory to keep that has no pair, so that every second of these is shown: keys say so."""
    many = Counter(m.memory.domain for m in memories if m.role == "keep")
    return sum(map(_single, many.values())) > 1


def encode(memory: Memory, tokenizer, length: int, role: Role = "unseen", shown: bool = False) -> EncodedMemory:
    """Tokenise a memory into its row of `length` tokens (a question: at most so many); refuses what does not round-trip or does not fit."""
    if memory.is_question:
        return encode_question(memory, tokenizer, length, role, shown)
    coded = tokenizer(memory.text, add_special_tokens=False)
    ids = coded["input_ids"]
    if (back := tokenizer.decode(ids, clean_up_tokenization_spaces=False)) != memory.text:
        at = next((i for i, (a, b) in enumerate(zip(back, memory.text, strict=False)) if a != b), min(len(back), len(memory.text)))
        raise UserError(f"Memory {memory.id!r} does not round-trip through this tokenizer: it differs at character {at}.")
    opening = tokenizer(memory.opening, add_special_tokens=False)["input_ids"]
    if ids[: len(opening)] != opening:
        raise UserError(f"Memory {memory.id!r}: the opening does not end at a token boundary; move opening_end to a clause's end.")
    if len(ids) < length:
        raise UserError(f"Memory {memory.id!r} has {len(ids)} tokens, fewer than its row of {length}; lengthen it or lower row.")
    if len(opening) + HORIZON > length:
        raise UserError(f"Memory {memory.id!r}: opening ({len(opening)}) and target ({HORIZON}) do not fit a row of {length} tokens.")
    said = tokenizer.decode(ids[:length], clean_up_tokenization_spaces=False)
    return EncodedMemory(memory, role, shown, tuple(ids[:length]), len(opening), said)


def encode_all(memories: Sequence[Memory], tokenizer, length: int, seed: int, per_role: int, salt: str = "") -> list[EncodedMemory]:
    """The memories that have a role in this seed, tokenised, in file order."""
    roles = assign_roles(memories, seed, per_role, salt)
    encoded = [encode(m, tokenizer, length, *roles[m.id]) for m in memories if m.id in roles]
    if found := same_rows(encoded):
        raise UserError(f"{found[0]} {len(found)} such groups: one may be unseen or kept while its double is forgotten. Leave doubles out.")
    return encoded


def same_rows(encoded: Sequence[EncodedMemory]) -> list[str]:
    """Which memories say nearly the same within their rows, a sentence for each group."""
    return [f"Memories {', '.join(map(repr, ids))} {what}." for ids, what in doubled(encoded)]


def doubled(encoded: Sequence[EncodedMemory]) -> list[tuple[list[str], str]]:
    """Groups of memories, by id and in order, that say nearly the same within their rows, and what each group does."""
    passages, questions = ([m for m in encoded if m.memory.is_question == asked] for asked in (False, True))
    found = [([passages[i].id for i in g], "are nearly the same text") for g in (doubles([m.text for m in passages]) if passages else [])]
    return found + [([questions[i].id for i in g], "ask the same") for g in asked_twice(questions)]


def largest_per_role(memories: Sequence[Memory]) -> int:
    """How many memories of each role the domains of a file allow; 0 if none. Of roles of its own, the size of the largest."""
    if any(m.role for m in memories):
        return max(Counter(m.role for m in memories).values())
    for most in range(len(memories) // 3, 0, -1):
        try:
            assign_roles(memories, 0, most)
        except UserError:
            continue
        return most
    return 0


def style(memories: Sequence[Memory], corpus: Iterable[str] = ()) -> list[str]:
    """The house style of the shipped passages, which a file of one's own need not have: every rule that a memory breaks."""
    faults = [f"{m.id}: {fault}" for m in memories for rule in _RULES for fault in rule(m)]
    texts = [m.text for m in memories]
    corpus = list(corpus)
    runs = run_hashes(texts)
    hashes, count = np.unique(np.concatenate([np.empty(0, np.uint64), *runs]), return_counts=True)
    shared = hashes[count > 1]
    faults += [
        f"{m.id}: shares an 8-word run with another passage" for m, r in zip(memories, runs, strict=True) if np.isin(r, shared).any()
    ]
    if corpus:
        faults += [f"{m.id}: shares an 8-word run with the corpus" for m, s in zip(memories, overlap(texts, corpus), strict=True) if s > 0]
    return faults


def _lengths(m: Memory) -> Iterator[str]:
    if not 110 <= (n := len(m.text.split())) <= 160:
        yield f"{n} words, expected 110 to 160"
    if not 12 <= (n := len(m.opening.split())) <= 16:
        yield f"opening of {n} words, expected 12 to 16"
    if m.opening[-1] not in ",;:.?!)":
        yield f"the opening ends with {m.opening[-1]!r}, expected the end of a clause"
    if not m.text[m.opening_end : m.opening_end + 1].isspace():
        yield "the opening is not followed by white space"


def _paraphrases(m: Memory) -> Iterator[str]:
    rest = m.text[m.opening_end :]
    forms = [m.opening, *m.paraphrases]
    if len(m.paraphrases) != 4:
        yield f"{len(m.paraphrases)} paraphrases, expected 4"
    if len({tuple(words(f)) for f in forms}) != len(forms):
        yield "two of opening and paraphrases have the same words"
    for p in m.paraphrases:
        if p != p.rstrip():
            yield f"a paraphrase ends with white space: {p!r}"
        if overlap([p], [rest], 5)[0] > 0:
            yield f"a paraphrase shares a 5-word run with the target: {p!r}"


def _contacts(m: Memory) -> Iterator[str]:
    for host in _EMAIL.findall(m.text) + _SITE.findall(m.text):
        if not _RESERVED_HOST.search(host):
            yield f"{host} is not a reserved domain (example.com/.org/.net, .example, .test, .invalid)"
    for number in _PHONE.findall(m.text):
        digits = re.sub(r"\D", "", number)
        if len(digits) >= 7 and not _RESERVED_PHONE.search(digits) and not re.fullmatch(r"(19|20)\d\d-\d\d-\d\d", number):
            yield f"{number!r} is not in a reserved range (555-0100 to 555-0199, 01632 960, 07700 900, 020 7946 0)"


_RULES: tuple[Callable[[Memory], Iterator[str]], ...] = (_lengths, _paraphrases, _contacts)
