"""What the pages of one entry, of one track and of two methods say, as plain data for their templates."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from ...benchmark.common.frozen import Frozen
from ...benchmark.common.types import HELD, HORIZON
from ...benchmark.scoring.score import strength
from ..cells import MISSING, number, p_value
from ..entry import Entry, OfSeed, Text
from ..entry_values import Number, Values
from ..ranking import APART
from ..report import compared
from ..severity import AT_LEAST
from ..statistics import holm
from .ranking import leak_at, words, worst
from .rows import Shown, Track, choices, shown

STEP = 8  # tokens: the shades of the heat map


@dataclass(frozen=True)
class Line:
    """One quantity as it is claimed and as it was verified."""

    name: str
    unit: str
    claimed: Shown
    verified: Shown | None
    why: str = ""  # there is no value

    @property
    def differs(self) -> bool:
        return self.verified is not None and self.verified != self.claimed


def numbers(entry: Entry) -> list[Line]:
    """The row's numbers, claimed beside verified."""
    found = entry.verified.values if entry.verified else None

    def line(name: str, unit: str, of: Any, factor: float = 1) -> Line:
        mine: Number | None = of(entry.claimed)
        return Line(name, unit, shown(mine, factor), shown(of(found), factor) if found else None, mine.why if mine is not None else "")

    def at(level: str, part: str) -> Any:
        return lambda values: getattr(cell, part) if (cell := leak_at(values, level)) else None

    lines = [line("Exact opening brings back all", "%", lambda v: v.exact, 100), line("Exact opening", "tokens", lambda v: v.opening)]
    for c in entry.claimed.leaks:
        lines += [
            line(f"Leak, {c.access}", "%", at(c.access, "leak"), 100),
            line(f"Excess over the twin, {c.access}", "tokens", at(c.access, "excess")),
        ]
    first = entry.claimed.leaks[0].access
    return [
        *lines,
        line(f"Worst case brings back all, {first}", "%", lambda v: v.worst, 100),
        line(f"Worst case, {first}", "tokens", lambda v: v.worst_length),
        *(line(f"{n}{'+' if n < HORIZON else ''} tokens beyond the twin, {first}", "%", _severity(n), 100) for n in AT_LEAST),
        line("Verbatim from any start", "tokens", lambda v: v.verbatim),
        line(f"Damage{f' ({entry.claimed.damage_of})' if entry.claimed.damage_of else ''}", "%", lambda v: v.damage),
        line("Collateral", "points", lambda v: v.collateral),
        line("Keep memories brought back whole", "%", lambda v: v.kept, 100),
    ]


def _severity(tokens: int) -> Callable[[Values], Number | None]:
    return lambda values: next((s.over for s in values.severity if s.tokens == tokens), None)


def flags(values: Values) -> list[str]:
    """The raised flags, in words."""
    return [
        f"{f.mark} {f.name}: in seed{'s' * (len(f.raised) > 1)} {', '.join(map(str, f.raised))}"
        + (f" ({', '.join(number(x) for x in of)})" if (of := [f.numbers[str(s)] for s in f.raised if str(s) in f.numbers]) else "")
        for f in values.flags
        if f.raised
    ]


@dataclass(frozen=True)
class Heat:
    """The matched lengths of one seed: memories down, attacks across; before them the worst case, the twin's, and the exact opening."""

    seed: int
    groups: list[tuple[str, list[str]]]  # access level, its attacks: the columns in order
    rows: list[tuple[str, list[tuple[int, str]]]]  # memory, its cells as shade 0..8 and text


def heat(entry: Entry) -> list[Heat]:
    known = entry.memories
    order = sorted(known.attacks, key=lambda a: (a in known.diagnostics, strength(known.attacks[a]), known.attacks[a], a))
    first = entry.claimed.leaks[0].access
    longest = worst(entry, first)

    def of_seed(of: OfSeed) -> Heat:
        asked = [a for a in order if a in of.lengths]
        none = (None,) * len(of.forget)
        lists = [[longest.get((of.seed, m)) for m in of.forget], of.twin.get(first, none), of.opening, *(of.lengths[a] for a in asked)]
        groups = {f"{first}, all": ["worst case", "twin", "exact opening"]}
        for a in asked:
            groups.setdefault("diagnostics" if a in known.diagnostics else known.attacks[a], []).append(a)
        rows = [(m, [_shade(of_list[i]) for of_list in lists]) for i, m in enumerate(of.forget)]
        return Heat(of.seed, list(groups.items()), rows)

    return [of_seed(of) for of in known.by_seed]


def _shade(n: float | None) -> tuple[int, str]:
    return (0, "") if n is None else (int(n) // STEP, f"{n:.0f}")


def texts(entry: Entry) -> list[dict[str, Any]]:
    """Example texts before and after, each split at the first difference from the true text."""
    titles = {HELD: "before", entry.method: "after"}

    def passage(t: Text) -> dict[str, Any]:
        names = [m for m in dict.fromkeys((HELD, entry.method, *t.said)) if m in t.said]
        said = [(f"{titles[m]}: {m}" if m in titles else m, compared(m, t.said[m], t.truth)) for m in names]
        return {"memory": t.memory, "role": t.role, "seed": t.seed, "prompt": t.prompt, "truth": t.truth.strip(), "said": said}

    return [passage(t) for t in entry.excerpts]


def facts(entry: Entry) -> dict[str, dict[str, str]]:
    """Everything else that an entry says, by heading."""
    h, v, m = entry.hashes, entry.versions, entry.machine
    dirty = {True: ", with changes", False: "", None: ""}[v.dirty]
    return {
        "What it was given": {
            "may have seen": entry.may_see,
            "tuned on": entry.tuned_on or MISSING,
            "seeds": ", ".join(map(str, entry.seeds)),
            "package": entry.package or MISSING,
        },
        "Machine and versions": {
            "device": f"{m.device}, {m.threads} threads" if m.threads else m.device,
            "precision": m.precision,
            "palimpsest": f"{v.palimpsest} ({v.commit or 'commit unknown'}{dirty})",
            "code of stages": ", ".join(f"{k} {n}" for k, n in sorted(v.kinds.items())) or MISSING,
            **dict(sorted(v.libraries.items())),
        },
        "Hashes": {
            **{name: getattr(h, name) for name in ("base", "corpus", "memories", "tokenizer")},
            "method's code": h.source,
            **{f"model of seed {s}": key for s, key in sorted(h.models.items())},
            **{f"weights of seed {s}": key for s, key in sorted(h.weights.items())},
            **({"bundle": entry.verified.bundle} if entry.verified else {}),
        },
    }


def costs(entry: Entry) -> list[list[str]]:
    """Seed, seconds, tokens, TFLOPs and peak MiB of each seed."""

    def of(x: float | None, unit: float = 1, digits: int = 1) -> str:
        return MISSING if x is None else f"{x / unit:,.{digits}f}"

    return [[str(c.seed), of(c.seconds), of(c.tokens, 1, 0), of(c.flops, 1e12, 3), of(c.peak_mib, 1, 0)] for c in entry.cost]


def frozen(entries: Sequence[Entry]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Inputs of a track: name -> each value with the rows that have it, no rows named where all agree."""
    asked = {
        "seeds": lambda e: ", ".join(map(str, e.seeds)),
        **{name: lambda e, name=name: getattr(e.hashes, name) for name in ("base", "corpus", "memories", "tokenizer")},
        "precision": lambda e: e.machine.precision,
        "device": lambda e: e.machine.device,
        "palimpsest": lambda e: e.versions.palimpsest,
        "code of stages": lambda e: ", ".join(f"{k} {n}" for k, n in sorted(e.versions.kinds.items())) or MISSING,
        "libraries": lambda e: ", ".join(f"{k} {n}" for k, n in sorted(e.versions.libraries.items())) or MISSING,
    }

    def values(of: Any) -> list[tuple[str, str]]:
        found: dict[str, list[str]] = {}
        for e in entries:
            found.setdefault(of(e), []).append(e.name)
        return [(value, ", ".join(names) if len(found) > 1 else "") for value, names in found.items()]

    return [(name, values(of)) for name, of in asked.items()]


def recorded(record: Frozen) -> dict[str, str]:
    """What a frozen track says of itself."""
    made = record.inputs

    def each(of: Mapping[str, Any]) -> str:
        return ", ".join(f"{k} {v}" for k, v in sorted(of.items())) or MISSING

    return {
        "SHA-256 of the record": record.sha256,
        "frozen": f"{record.date}, by the code of commit {record.commit}",
        **{name: getattr(made, name) for name in ("base", "corpus", "memories", "tokenizer", "deepspeed", "precision")},
        "code of stages": each(made.kinds),
        "code of attacks": each(made.attacks),
        "libraries": each(made.libraries),
    }


def config_text(config: dict[str, Any]) -> str:
    """A resolved suite, to be read."""
    return json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False)


def stability(track: Track) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """How ranks depend on the choice of budgets: the choices in words, and the ranks of each entry under them; empty is over budget."""
    asked = choices(track)
    by_choice = [{s.entry.name: s.rank for s in track.ranking.stands(track.access, b)} for b in asked]
    names = [r.entry.name for r in track.rows if r.kind != "reference"]
    return [" / ".join(words(b)) for b in asked], [(n, [ranks[n] for ranks in by_choice]) for n in names]


def pairs(track: Track) -> list[dict[str, Any]]:
    """Every two methods of a track memory by memory: on how many memories each loses more, and whether that tells them apart."""
    ranking, entries = track.ranking, [r.entry for r in track.rows]
    tests = ranking.tests(entries, track.access)
    adjusted = dict(zip(tests, holm([p for p, _ in tests.values()]), strict=True))
    of = {e.name: worst(e, track.access) for e in entries}

    def pair(a: str, b: str) -> dict[str, Any]:
        mine, theirs = of[a], of[b]
        shared = mine.keys() & theirs.keys()
        more, less = sum(mine[k] > theirs[k] for k in shared), sum(mine[k] < theirs[k] for k in shared)
        p = adjusted.get((min(a, b), max(a, b)), 1.0)
        return {
            "a": a,
            "b": b,
            "more": more,
            "less": less,
            "same": len(shared) - more - less,
            "p": p,
            "said": p_value(p),
            "apart": p < APART,
        }

    return [pair(a.name, b.name) for a, b in combinations(entries, 2)]


def drawn(track: Track) -> list[tuple[str, str, str]]:
    """Of each ranked entry: in how many % of the draws nobody stands before it, and from which to which rank 95% of them put it."""
    return [(name, number(100 * d.first), str(d.middle)) for name, d in track.ranking.draws(track.access, track.budget).items()]


def side_by_side(track: Track) -> dict[str, Any]:
    """What the page that compares two methods reads: the matched lengths of each entry, for the script."""

    def of(entry: Entry) -> dict[str, Any]:
        levels = {level: worst(entry, level) for level in track.ranking.levels}
        return {
            "name": entry.name,
            "seeds": [
                {
                    "seed": m.seed,
                    "forget": m.forget,
                    "lengths": [
                        *((f"worst case, {level}", [longest.get((m.seed, x)) for x in m.forget]) for level, longest in levels.items()),
                        ("exact opening", m.opening),
                        *sorted(m.lengths.items()),
                    ],
                }
                for m in entry.memories.by_seed
            ],
        }

    return {"horizon": HORIZON, "entries": [of(r.entry) for r in track.rows]}


def attacks_of(entries: Iterable[Entry]) -> dict[str, dict[str, float]]:
    """Attack -> entry as track/name -> mean matched length in tokens: for the filter by attack."""
    found: dict[str, dict[str, float]] = {}
    for e in entries:
        for a in (e.verified.values if e.verified else e.claimed).attacks:
            if a.matched.value is not None:
                found.setdefault(a.attack, {})[f"{e.track}/{e.name}"] = a.matched.value
    return dict(sorted(found.items()))
