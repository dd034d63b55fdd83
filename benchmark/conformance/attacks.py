"""Does a plug-in keep the rules? `palimpsest check attack=./mine.py` runs these on a small held model and its twin."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from ..attack_tools.bases import Membership, Prompting, Searching, Tools
from ..battery.answers import BestAnswer
from ..battery.one_attack import Task, attack_once
from ..battery.shared_pass import Armed, Probes, ask_all
from ..common.types import HELD, TWIN, EncodedMemory, Finding
from ..models.subject import Subject
from ..running.plan import Run

SUITE = "smoke"  # its held model and twin are what plug-ins are tried on
SEED = 0


@dataclass(frozen=True)
class Check:
    """One rule: whether it is kept, what was seen, and what to do if it is not."""

    name: str
    kept: bool
    seen: str = ""
    advice: str = ""


@dataclass(frozen=True)
class AttackResult:
    """What an attack made of a model: best value per memory, all lengths with what they could have been, and everything it said."""

    best: dict[str, float]
    lengths: list[tuple[int, int]]
    said: dict[str, list[str]]  # memory -> its answers and findings as canonical JSON, in an order of their own
    doubts: tuple[str, ...] = ()  # claims of a search that do not hold

    def about(self, memories: Sequence[EncodedMemory]) -> dict[str, list[str]]:
        return {m.id: self.said.get(m.id, []) for m in memories}


def check_attack(run: Run, armed: Armed) -> Iterator[Check]:
    """Shape and range, determinism, independence of batch mates, more on the held model than on the twin, nothing changed."""
    if "passage" not in armed.attack.kinds:
        yield Check("applies", True, "does not apply to passages, which are all that it could be asked about here")
        return
    memories = [m for m in run.encoded(SEED) if m.role == "forget"]
    held = run.subject(run.model(HELD, SEED))
    before, files = _weights(held), _files(held)
    first = try_attack(run, armed, HELD, held, memories)
    after = _weights(held)
    alike = after.keys() == before.keys() and all(torch.equal(w, after[name]) for name, w in before.items()) and _files(held) == files
    seen = f"{len(first.best)} of {len(memories)} memories answered"
    yield Check("answers", bool(first.best), seen, "Yield at least one answer per memory that you can ask about.")
    wrong = [(n, of) for n, of in first.lengths if not 0 <= n <= of]
    yield Check("range", not wrong, f"out of range: {wrong[:3]}" if wrong else "", "A matched length lies between 0 and its horizon.")
    if isinstance(armed.attack, Searching):
        advice = "Report what the model says after the prompt that you name; `claims` tells other kinds of lengths."
        yield Check("claims", not first.doubts, " ".join(first.doubts), advice)
    numbers = not any(np.isnan(v) or v == np.inf for v in first.best.values())
    yield Check("numbers", numbers, "", "A score is a number, or -inf for a text that could never come; skip what cannot be scored.")
    again = try_attack(run, armed, HELD, held, memories)
    yield Check("deterministic", again.said == first.said, "", "Draw only through tools.rng(...); sort sets before you walk them.")
    back, alone = (try_attack(run, armed, HELD, held, some) for some in (memories[::-1], memories[-1:]))
    same = back.about(memories) == first.about(memories) and alone.about(memories[-1:]) == first.about(memories[-1:])
    yield Check("independent", same, "", "A result must not depend on the other memories of the call, nor on their order.")
    if not armed.attack.diagnostic:  # which need not read anything back
        mine, theirs = _middle(first), _middle(try_attack(run, armed, TWIN, run.subject(run.model(TWIN, SEED)), memories))
        yield Check(
            "reads the held model",
            mine > theirs,
            f"held {mine:.2f}, twin {theirs:.2f}",
            "A model that holds the memories should give more than one that never saw them.",
        )
    yield Check("leaves the model alone", alike, "", "Work on a copy: subject.fresh(), or subject.with_state(...).")


def try_attack(run: Run, armed: Armed, method: str, subject: Subject, memories: Sequence[EncodedMemory]) -> AttackResult:
    """Run one attack on one model (`subject`, which a suite calls `method`) and some memories, as a suite would."""
    attacking, precision = run.attacking, run.suite.precision
    if isinstance(armed.attack, Prompting):
        tools = Tools(run.base, SEED, [m for m in run.encoded(SEED) if m.role == "keep" and m.shown])
        return _result(ask_all(subject, Probes(tools), [(armed, memories)], precision).answers, [])
    if isinstance(armed.attack, Membership):
        mine, twin = attacking.readings(run.model(method, SEED)), attacking.readings(run.model(TWIN, SEED))
        scores = {m.id: armed.attack.score(m, mine[m.id], twin[m.id]) for m in memories}
        return AttackResult(scores, [], {memory: [repr(score)] for memory, score in scores.items()})
    workshop = attacking.workshop(run.model(method, SEED), "check")
    task = Task(armed, memories, run.encoded(SEED), workshop, run.who.probes(SEED), run.who.reasked, strict=False)
    attack_once(task, subject)
    return replace(_result(task.answers, task.findings), doubts=tuple(task.doubts))


def _result(answers: Sequence[BestAnswer], findings: Sequence[Finding]) -> AttackResult:
    best: dict[str, float] = {}
    for memory, value in [(a.memory, a.matched) for a in answers] or [(f.memory, f.value) for f in findings]:
        best[memory] = max(best.get(memory, -np.inf), float(value))
    said: dict[str, list[str]] = defaultdict(list)
    for row in [*answers, *findings]:
        said[row.memory].append(json.dumps(asdict(row), sort_keys=True))
    lengths = [(a.matched, a.horizon) for a in answers]
    return AttackResult(best, lengths, {memory: sorted(rows) for memory, rows in said.items()})


def _middle(result: AttackResult) -> float:
    """The mean over the memories; the median if one of them is -inf."""
    values = list(result.best.values())
    return float(np.mean(values) if np.isfinite(values).all() else np.median(values)) if values else 0.0


def _weights(subject: Subject) -> dict[str, torch.Tensor]:
    return {name: w.detach().clone() for name, w in subject.model.state_dict().items()}


def _files(subject: Subject) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(subject.folder.rglob("*")) if f.is_file()}


def report(checks: Iterator[Check], show: Callable[[Check], Any]) -> int:
    """Show every check; how many rules are broken."""
    broken = 0
    for check in checks:
        broken += not check.kept
        show(check)
    return broken
