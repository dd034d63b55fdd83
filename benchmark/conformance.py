"""Does a plug-in keep the rules? `palimpsest check attack=./mine.py` runs these on a small held model and its twin."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from .attack import Membership, Prompting, Tools
from .attacking import TWIN
from .battery import Armed, Probes, run_battery
from .expensive import Task, attack_once
from .pipeline import Run
from .scoring import HELD
from .subject import Subject
from .types import EncodedMemory

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
class Shot:
    """What an attack made of a model: best matched length per memory, all lengths with what they could have been, other numbers."""

    best: dict[str, float]
    lengths: list[tuple[int, int]]
    text: str  # everything, as canonical JSON: two runs are the same if this is


def check_attack(run: Run, armed: Armed) -> Iterator[Check]:
    """Shape and range, determinism, independence of batch mates, more on the held model than on the twin, nothing changed."""
    memories = [m for m in run.encoded(SEED) if m.role == "forget"]
    held = run.subject(HELD, SEED)
    before = _weights(held)
    first = fire(run, armed, HELD, memories)
    seen = f"{len(first.best)} of {len(memories)} memories answered"
    yield Check("answers", bool(first.best), seen, "Yield at least one answer per memory.")
    wrong = [(n, of) for n, of in first.lengths if not 0 <= n <= of]
    yield Check("range", not wrong, f"out of range: {wrong[:3]}" if wrong else "", "A matched length lies between 0 and its horizon.")
    numbers = not any(np.isnan(v) or v == np.inf for v in first.best.values())
    yield Check("numbers", numbers, "", "A score is a number, or -inf for a text that could never come; skip what cannot be scored.")
    again = fire(run, armed, HELD, memories)
    yield Check("deterministic", again.text == first.text, "", "Draw only through tools.rng(...); sort sets before you walk them.")
    alone = fire(run, armed, HELD, memories[:1])
    same = all(alone.best[k] == first.best.get(k) for k in alone.best)
    yield Check("independent", same, "", "What is found for a memory must not depend on the other memories of the call.")
    if not armed.attack.diagnostic:  # which need not read anything back
        mine, theirs = _middle(first), _middle(fire(run, armed, TWIN, memories))
        yield Check(
            "reads the held model", mine > theirs, f"held {mine:.2f}, twin {theirs:.2f}",
            "A model that holds the memories should give more than one that never saw them.",
        )  # fmt: skip
    yield Check("leaves the model alone", _weights(held) == before, "", "Work on a copy: subject.fresh(), or subject.with_state(...).")


def fire(run: Run, armed: Armed, method: str, memories: Sequence[EncodedMemory]) -> Shot:
    """Run one attack on one model and some memories, as a suite would."""
    attacking, precision = run.attacking, run.suite.precision
    subject = run.subject(method, SEED)
    if isinstance(armed.attack, Prompting):
        tools = Tools(run.base, SEED, [m for m in run.encoded(SEED) if m.role == "keep" and m.shown])
        return _shot(run_battery(subject, Probes(tools), [(armed, memories)], precision).answers, [])
    if isinstance(armed.attack, Membership):
        mine, twin = attacking.readings(method, SEED), attacking.readings(TWIN, SEED)
        scores = {m.id: armed.attack.score(m, mine[m.id], twin[m.id]) for m in memories}
        return Shot(scores, [], json.dumps(scores))
    task = Task(armed, memories, run.encoded(SEED), attacking.workshop(method, SEED, "check"), attacking.probes(SEED), attacking.reasked)
    attack_once(task, subject)
    return _shot(task.answers, [asdict(f) for f in task.findings])


def _shot(answers: list[dict[str, Any]], findings: list[dict[str, Any]]) -> Shot:
    best: dict[str, float] = {}
    for memory, value in [(a["memory"], a["matched"]) for a in answers] or [(f["memory"], f["value"]) for f in findings]:
        best[memory] = max(best.get(memory, -np.inf), float(value))
    lengths = [(a["matched"], a["horizon"]) for a in answers]
    return Shot(best, lengths, json.dumps([answers, findings], sort_keys=True))


def _middle(shot: Shot) -> float:
    """The mean over the memories; the median if one of them is -inf."""
    values = list(shot.best.values())
    return float(np.mean(values) if np.isfinite(values).all() else np.median(values)) if values else 0.0


def _weights(subject: Subject) -> list[float]:
    with torch.no_grad():
        return [float(p.double().abs().sum()) for p in subject.model.parameters()]


def report(checks: Iterator[Check], show: Callable[[Check], Any]) -> int:
    """Show every check; how many rules are broken."""
    broken = 0
    for check in checks:
        broken += not check.kept
        show(check)
    return broken
