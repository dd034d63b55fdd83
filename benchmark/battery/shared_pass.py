"""Gathers the probes of all attacks, asks a model once, and keeps each attack's best answer per memory and variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, get_args

from ..attack_tools.bases import Attack, Claims, Membership, Prompting, Searching, Tampering, Tools
from ..common.errors import UserError, unknown
from ..common.plugins import Plugin, distinct, find
from ..common.processes import gathered, is_alone, my_share
from ..common.progress import Progress, silent
from ..common.strangers import each, stranger
from ..common.types import Asks, EncodedMemory, Probe, Questions, TokenReading
from ..models.subject import Subject
from ..reading.reader import Reader
from ..reading.readings import plain_reading, reading_from
from .answers import BestAnswer, of_all_ranks

TIERS = {Prompting: (0, 1), Membership: (0,), Searching: (2, 3), Tampering: (2, 3)}
BASES = tuple(TIERS)
Asked = Sequence[tuple["Armed", Sequence[EncodedMemory]]]  # which attack is asked about which memories


@dataclass(frozen=True)
class Armed:
    """An attack ready to run: its plug-in, the instance with its fields, and the fields that were changed."""

    plugin: Plugin
    attack: Attack
    given: dict[str, Any]

    @property
    def name(self) -> str:
        return self.plugin.name

    @property
    def spec(self) -> dict[str, Any]:
        """What a stage's key holds of it."""
        return {"name": self.plugin.name, "source": self.plugin.source, "fields": self.given} | self.plugin.read_by(self.attack)


def arm(attacks: Mapping[str, dict[str, Any]]) -> list[Armed]:
    """Make the attacks that a suite names, in tier order."""
    armed = []
    found = distinct({name: find("attack", name) for name in attacks})
    for name, given in attacks.items():
        plugin = found[name]
        attack = plugin.make(given)
        if not isinstance(attack, BASES):
            raise UserError(f"attack {name}: {type(attack).__name__} should derive from one of {', '.join(b.__name__ for b in BASES)}.")
        base = next(b for b in BASES if isinstance(attack, b))
        if attack.tier not in TIERS[base]:
            tiers = " or ".join(map(str, TIERS[base]))
            raise UserError(f"attack {name} is of tier {attack.tier}: a {base.__name__} attack is of tier {tiers}.")
        for kind in attack.asks.values():
            if kind not in get_args(Asks):
                raise unknown(f"kind of question that attack {name} could declare in asks", kind, get_args(Asks)[1:])
        if isinstance(attack, Searching) and attack.claims not in get_args(Claims):
            raise unknown(f"kind of length that attack {name} could claim", attack.claims, get_args(Claims))
        armed.append(Armed(plugin, attack, given))
    return sorted(armed, key=lambda a: a.attack.tier)


@dataclass
class Probes:
    """The probes of attacks on memories, written once and asked of every model."""

    tools: Tools
    _written: dict[tuple[str, str, str], list[Probe]] = field(default_factory=dict, init=False)

    def of(self, armed: Armed, memories: Sequence[EncodedMemory]) -> list[Probe]:
        """All probes of one attack on these memories, checked."""
        if not isinstance(armed.attack, Prompting):
            return []
        out = []
        for m in (m for m in memories if m.memory.kind in armed.attack.kinds):
            key = (armed.plugin.source, repr(armed.attack), m.id)
            if key not in self._written:
                self._written[key] = self._asked_for(armed.name, armed.attack, m)
            out += self._written[key]
        return out

    def _asked_for(self, name: str, attack: Prompting, m: EncodedMemory) -> list[Probe]:
        what = f"attack {name}, writing probes for memory {m.id!r}"
        with stranger(what):
            written = attack.probes(m, self.tools)
        probes = [_validated(p, name, attack.asks, m, self._vocabulary) for p in each(written, what)]
        return probes if not m.memory.is_question else [p for p in map(partial(_for_the_answer, m=m), probes) if p.cuts]

    @cached_property
    def _vocabulary(self) -> int:
        return len(self.tools.tokenizer)


@dataclass
class Outcome:
    """What one pass gave."""

    answers: list[BestAnswer]
    facts: dict[str, Any]  # about the pass, for the stage's manifest
    readings: dict[str, TokenReading] = field(default_factory=dict, repr=False)
    cache: Any = field(default=None, repr=False)  # what the model was asked, for the next pass


def ask_all(
    subject: Subject,
    probes: Probes,
    asked: Asked,
    precision: str,
    progress: Progress = silent,
    tokens: Sequence[EncodedMemory] = (),
    cache: Any = None,
) -> Outcome:
    """Ask everything in one pass. `tokens` are memories of whose rows a `TokenReading` is wanted from the same pass.

    Under the launcher every rank calls it: ranks share the memories, and each gets the whole outcome.
    """
    ids = sorted({m.id for _, memories in asked for m in memories} | {m.id for m in tokens})
    mine = set(my_share(ids))
    part = [(armed, [m for m in memories if m.id in mine]) for armed, memories in asked]
    out = _ask(subject, probes, part, precision, progress, [m for m in tokens if m.id in mine], cache or {})
    return out if is_alone() else _together(out, asked)


def _ask(
    subject: Subject, probes: Probes, asked: Asked, precision: str, progress: Progress, tokens: Sequence[EncodedMemory], cache: Any
) -> Outcome:
    reader = Reader(subject, precision, progress=progress, cache=cache)
    written = [(armed, p) for armed, memories in asked for p in probes.of(armed, memories)]
    matched = read_lengths(reader, [p for _, p in written], {m.id: m for _, memories in asked for m in memories}, tokens)
    best: dict[tuple[str, str, str], tuple[int, Armed, Probe, int]] = {}
    for (armed, probe), lengths in zip(written, matched, strict=True):
        for cut, variant, length in zip(probe.cuts, probe.variants, lengths, strict=True):
            key = (armed.name, variant, probe.memory)
            if key not in best or length > best[key][0]:  # ties go to the probe that was written first
                best[key] = (length, armed, probe, cut)
    answers = [_answer(*key, *value, probes.tools) for key, value in best.items()]
    facts: dict[str, Any] = {"rows": reader.rows_asked, "rows_again": reader.rows_again, "tokens": reader.tokens, "probes": len(written)}
    facts["read_in"] = reader.used  # not `precision`: answers do not depend on it
    return Outcome(answers, facts, reader.readings, reader.lengths)


def read_lengths(
    reader: Reader, probes: Sequence[Probe], of: Mapping[str, EncodedMemory], tokens: Sequence[EncodedMemory] = ()
) -> list[tuple[int, ...]]:
    """Matched lengths, per probe and cut. Another accepted answer that comes back whole counts as the whole answer, less as nothing."""
    others = [
        (i, k, replace(p, prompt=p.prompt + p.target[:cut], target=ids, offset=p.offset + cut, cuts=(0,), variants=("",), horizon=len(ids)))
        for i, p in enumerate(probes)
        for k, cut in enumerate(p.cuts)
        for ids in of[p.memory].accepted
        if p.offset + cut == of[p.memory].opening
    ]
    lengths = reader.read([*probes, *(p for *_, p in others)], tokens)
    found = [list(n) for n in lengths[: len(probes)]]
    for (i, k, p), (length,) in zip(others, lengths[len(probes) :], strict=True):
        if length == p.horizon:
            found[i][k] = _horizon(probes[i], probes[i].cuts[k])
    return [tuple(n) for n in found]


def _for_the_answer(p: Probe, m: EncodedMemory) -> Probe:
    """A probe about a question without the cuts after which it would read the question itself."""
    kept = [(c, v) for c, v in zip(p.cuts, p.variants, strict=True) if p.offset + c >= m.opening]
    return replace(p, cuts=tuple(c for c, _ in kept), variants=tuple(v for _, v in kept), lists=m.memory.lists)


def _horizon(p: Probe, cut: int) -> int:
    return min(p.horizon, len(p.target) - cut)


def _together(out: Outcome, asked: Asked) -> Outcome:
    """The outcomes of all ranks as one process would have given them."""
    place = {(armed.name, m.id): (i, j) for i, (armed, memories) in enumerate(asked) for j, m in enumerate(memories)}
    answers = sorted(of_all_ranks(BestAnswer, out.answers), key=lambda a: place[a.attack, a.memory])
    every = gathered([out.facts])
    facts = {k: max(f[k] for f in every) if k == "read_in" else sum(f[k] for f in every) for k in out.facts}
    readings = {r.memory: r for r in map(reading_from, gathered([plain_reading(r) for r in out.readings.values()]))}
    cache = {bytes.fromhex(k): m for k, m in gathered([[k.hex(), m] for k, m in out.cache.items()])}
    return Outcome(answers, facts, readings, cache)


def _answer(attack: str, variant: str, memory: str, matched: int, armed: Armed, p: Probe, cut: int, tools: Tools) -> BestAnswer:
    return BestAnswer(
        memory,
        attack,
        variant,
        armed.attack.access,
        armed.attack.tier,
        p.start,
        p.offset + cut,
        prompt=tools.decode(p.prompt + p.target[:cut]),
        matched=matched,
        horizon=_horizon(p, cut),
    )


def _validated(p: Any, attack: str, asks: Questions, memory: EncodedMemory, vocabulary: int) -> Probe:
    """A probe that a plug-in wrote wrongly is reported, not asked."""
    if not isinstance(p, Probe):
        raise UserError(f"attack {attack}: probes of memory {memory.id!r} should be Probe objects; it gave {type(p).__name__}.")
    if strange := [i for i in p.prompt if not isinstance(i, int) or not 0 <= i < vocabulary]:
        raise UserError(f"attack {attack}: a prompt for memory {memory.id!r} holds {strange[0]!r}, no token id from 0 to {vocabulary - 1}.")
    if p.memory != memory.id or p.target != memory.row[p.offset : p.offset + len(p.target)]:
        raise UserError(
            f"attack {attack}: a probe's target is not row[offset:…] of memory {memory.id!r}; targets must be the memory's own ids."
        )
    if len(p.cuts) != len(p.variants):
        raise UserError(f"attack {attack}: a probe has {len(p.cuts)} cuts and {len(p.variants)} variants; each cut needs its variant.")
    if bad := [c for c in p.cuts if not 0 <= c < len(p.target) or len(p.prompt) + c == 0]:
        raise UserError(
            f"attack {attack}: cuts {bad} leave nothing to ask or nothing to ask with (prompt {len(p.prompt)}, target {len(p.target)})."
        )
    exact = [(c, v) for c, v in zip(p.cuts, p.variants, strict=True) if asks.get(v, asks.get("")) == "exact"]
    opening = (memory.row[: memory.opening], memory.opening)
    if other := [v for c, v in exact if (p.prompt + p.target[:c], p.offset + c) != opening]:
        raise UserError(
            f"attack {attack}: the variant {other[0]!r} is declared to ask with the exact opening, but its prompt about memory "
            f"{memory.id!r} is another; give row[:opening], and read on from there."
        )
    return p
