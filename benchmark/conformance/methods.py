"""Does a method keep the rules? `palimpsest check method=./forget.py:Forget` tries it on a small held model.

One whole run tells whether it forgets and keeps. What must not depend on how it is run (again, interrupted, under ZeRO-3, on two
processes) is tried on four rows of unequal length in batches of three: so two processes get unequal shares, and one of them once nothing.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..common.errors import UserError
from ..common.plugins import find
from ..common.types import EncodedMemory, Probe, Row
from ..method import Reference, UnlearningData
from ..models.subject import Subject
from ..reading.reader import Reader
from ..running.plan import Run
from ..suites.space import declared_strength
from .attacks import SEED, Check
from .worker import Done, Job, error_line, on_processes, unlearn

FORGETS = 0.5  # of the held model's mean matched length may be left
KEEPS = 1.5  # times the held model's bits per token may be spent on ordinary text
LOSS, WEIGHT = 1e-5, 5e-3  # tolerances under ZeRO-3 and on two processes, see `deviation`; the shipped methods reach 6e-7 and 7e-4
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the suite curves
ROWS, FAR = 16, 4000  # rows of ordinary text to measure on, from one that no method comes to
WHOLE = {"batch": 2}  # fields of the whole run: else all eight forget rows are one step, and an epoch is far shorter than on a track
SHARES = (1.0, 0.6, 0.85, 0.5)  # rows of the small runs: how much of each is taken
LESS = {"epochs": 2, "batch": 3}  # fields of the small runs


T = TypeVar("T")


@dataclass(frozen=True)
class Trial:
    """What a method is tried on: a held model, all that a method is given, and ordinary text that it is not given."""

    held: Path
    data: UnlearningData = field(repr=False)
    memories: Sequence[EncodedMemory] = field(repr=False)  # those to forget
    ordinary: Sequence[Row] = field(repr=False)


def trial_of(run: Run, history: bool) -> Trial:
    """The suite's first seed as a trial."""
    data = run.data(SEED, history)
    memories = [m for m in run.encoded(SEED) if m.role == "forget"]
    return Trial(run.store.ensure(run.held(SEED)), data, memories, [data.retain(k) for k in range(FAR, FAR + ROWS)])


def check_method(method: str, given: dict[str, Any], trial: Trial, cheap: bool = False) -> Iterator[Check]:
    """Try the method `method` (as `plugins.find` takes it), rule by rule; `cheap`: only those that plain runs in this process tell."""
    yield _strength(method, given)
    with tempfile.TemporaryDirectory() as name:
        held = Path(name) / "held"  # a copy: a method that writes there does no harm
        shutil.copytree(trial.held, held, copy_function=shutil.copyfile)  # which leaves behind that files are read-only
        job = lessened(Job(method, given, held, trial.data), WHOLE)
        subject, before = Subject(held), (_digests(held), _weights(Subject(held)))
        _ = subject.model  # loaded now, so that what the method does to it can be seen
        try:
            unlearned, done = unlearn(job, subject)
        except UserError as error:
            advice = "The other rules need a run that ends. See what the loss divides by, and of what it takes a logarithm; try a lower lr."
            yield Check("finite", False, str(error), advice)
            return
        yield _finite(done)
        yield from _effect(Subject(held), unlearned, trial)
        yield _untouched(subject, *before)
        unlearned.release()
        yield from _repeated(small(replace(job, given=given)), before[1], done.fits > 0, Path(name), cheap)


def small(job: Job) -> Job:
    """The job on a few rows of unequal length, with fewer passes and a shorter history."""
    data = job.data
    forget = [Row(r.ids[: round(len(r.ids) * share)], r.scored_from, r.name) for r, share in zip(data.forget, SHARES, strict=False)]
    history = data.history
    if history:
        stream = history.stream
        history = replace(history, stream=replace(stream, config=replace(stream.config, occurrences=(1,), batch=8)))
    return lessened(replace(job, data=replace(data, forget=forget, history=history)), LESS)


def lessened(job: Job, fields: dict[str, int]) -> Job:
    """The job with these fields, where the method has them and has more."""
    known = {**find("method", job.method).defaults, **job.given}
    less = {k: v for k, v in fields.items() if isinstance(known.get(k), int) and known[k] > v}
    return replace(job, given={**job.given, **less})


# ---- what it declares


def _strength(method: str, given: dict[str, Any]) -> Check:
    """The field that an operating curve varies is there, and its bounds let the curve's values through."""
    plugin = find("method", method)
    advice = (
        'Name a field of yours that trades forgetting for keeping: strength: ClassVar[Strength] = Strength("lr"); or None if there is none.'
    )
    try:
        if (scale := declared_strength(plugin.cls)) is None:
            return Check("strength", True, "none declared: on operating curves the method is one point")
        ordinary = getattr(plugin.make(given), scale.field)
        values = [scale.at(s, ordinary) for s in STRENGTHS]
        for value in values:
            plugin.make({**given, scale.field: value})
    except UserError as error:
        return Check("strength", False, str(error), advice + " A power of -1 turns the scale, one below 1 narrows it.")
    return Check("strength", True, f"{scale.field} at {', '.join(f'{v:g}' for v in values)}")


# ---- what one whole run did


def _finite(done: Done) -> Check:
    numbers = [v for step in done.steps for v in step.values()]
    bad = [k for k, w in done.weights.items() if not w.isfinite().all()]
    seen = f"not finite: {', '.join(bad[:3])}" if bad else f"{len(done.steps)} training steps"
    kept = not bad and all(map(math.isfinite, numbers))
    return Check("finite", kept, seen, "Weights that are not finite come from a division by 0 or a step too large: look at lr first.")


def _effect(held: Subject, unlearned: Subject, trial: Trial) -> Iterator[Check]:
    """It forgets, and it keeps."""
    before, after = (_matched(s, trial.memories) for s in (held, unlearned))
    yield Check(
        "forgets",
        after <= FORGETS * before,
        f"{after:.1f} tokens after the exact opening, held model {before:.1f}; at most {FORGETS:.0%} may be left",
        "Raise lr or epochs. If that does not help, see that what you minimise makes the forget texts less likely (the sign of the term).",
    )
    spent = [Reference(s).mean_nll(trial.ordinary) / math.log(2) for s in (held, unlearned)]
    yield Check(
        "keeps",
        spent[1] <= KEEPS * spent[0],
        f"{spent[1]:.2f} bits per token of ordinary text, held model {spent[0]:.2f}; at most {KEEPS} times as many are allowed",
        "Lower lr or epochs, bound the forget side of the loss, or give its retain side more weight.",
    )


def _untouched(subject: Subject, digests: dict[str, str], weights: dict[str, Tensor]) -> Check:
    changed = [k for k, w in subject.model.state_dict().items() if not torch.equal(w.cpu(), weights[k])]
    now = _digests(subject.folder)
    files = sorted(k for k in {*digests, *now} if digests.get(k) != now.get(k))
    seen = "; ".join(f"{what} changed: {', '.join(found[:3])}" for what, found in (("weights", changed), ("files", files)) if found)
    advice = "Work on a copy: train.fit(held, …) makes one, held.fresh() is one, and held.with_state(state) is a subject of other weights."
    return Check("leaves the held model alone", not seen, seen, advice)


def _matched(subject: Subject, memories: Sequence[EncodedMemory]) -> float:
    """Mean matched length after the exact opening, in tokens."""
    probes = [Probe(m.id, (), m.row, 0, (m.opening,), ("opening",), start=0) for m in memories]
    return sum(lengths[0] for lengths in Reader(subject, "fp32").read(probes)) / len(probes)


def _digests(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.rglob("*") if f.is_file()}


def _weights(subject: Subject) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in subject.fresh().state_dict().items()}


# ---- what must not depend on how it is run


def _repeated(job: Job, start: dict[str, Tensor], trains: bool, folder: Path, cheap: bool) -> Iterator[Check]:
    """The same result again; and, unless `cheap`, where `Trainer.fit` trains: when interrupted, under ZeRO-3, and on two processes."""
    reference = _attempt(lambda: unlearn(job)[1])
    if isinstance(reference, str):
        advice = f"A method should also run on {len(SHARES)} rows of unequal length, in batches of {LESS['batch']}."
        yield Check("few rows", False, reference, advice)
        return
    yield _identical(
        "deterministic",
        reference,
        _attempt(lambda: unlearn(job)[1]),
        "Draw only with rng(data.seed, …) from benchmark.method: Python's, NumPy's and torch's own generators start from another state "
        "each time. Sort sets before you walk them.",
    )
    if cheap:
        return
    if not trains:
        for name in ("resumable", "ZeRO-3", "two processes"):
            yield Check(name, True, "does not apply: nothing is trained through train.fit")
        return
    yield _identical(
        "resumable",
        reference,
        _attempt(lambda: _interrupted(job, len(reference.steps), folder / "resume")),
        "Let draws inside the loss depend on the seed and the rows' serial, not on how many were drawn before; "
        "keep what changes while training in the object given as train.fit(…, state=…).",
    )
    yield _agrees(
        "ZeRO-3",
        reference,
        _attempt(lambda: [unlearn(replace(job, deepspeed="zero3"))[1]]),
        start,
        "Weights are whole only while the model's own modules run: use them inside loss and through the modules, "
        "and look at no parameter before or after.",
    )
    yield _agrees(
        "two processes",
        reference,
        _attempt(lambda: on_processes(job, 2)),
        start,
        "Give each Term a sum over scored tokens or rows, never a mean, and divide by nothing that this process counted; multiply "
        "what you sum per row by forget.real; let draws depend on the rows' serial.",
    )


def _attempt(run: Callable[[], T]) -> T | str:
    """What it gives, or its error in a line: here an error is a finding."""
    try:
        return run()
    except Exception as error:
        return error_line(error)


def _interrupted(job: Job, steps: int, folder: Path) -> Done:
    """Begin the run, end it in the middle of its steps, and run it again with what was saved."""
    left = steps // 2 + 1

    def count(what: str, done: int, of: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise _Interruption

    with suppress(_Interruption):
        unlearn(job, resume=folder, progress=count)
    return unlearn(job, resume=folder)[1]


class _Interruption(Exception):  # noqa: N818
    """Stands for a process that is ended."""


def _identical(name: str, reference: Done, other: Done | str, advice: str) -> Check:
    if isinstance(other, str):
        return Check(name, False, other, advice)
    apart = [k for k, w in reference.weights.items() if not torch.equal(w, other.weights[k])]
    seen = f"{len(apart)} of {len(reference.weights)} weight matrices and vectors differ" if apart else "the same weights to the bit"
    return Check(name, not apart, seen, advice)


def _agrees(name: str, reference: Done, others: Sequence[Done] | str, start: dict[str, Tensor], advice: str) -> Check:
    if isinstance(others, str):
        return Check(name, False, others, advice)
    found = [deviation(o, reference, start) for o in others]
    loss, weight = (max(column) for column in zip(*found, strict=True))
    seen = f"loss terms differ by {loss:.0e} (at most {LOSS:.0e}), weights by {weight:.0e} of the way they went (at most {WEIGHT:.0e})"
    return Check(name, loss <= LOSS and weight <= WEIGHT, seen, advice)


def deviation(a: Done, b: Done, start: dict[str, Tensor]) -> tuple[float, float]:
    """How far a is from b: the largest difference of a loss term at a step (relative above 1), and the length of the
    difference of the weights over the length of the way that b went from `start`."""
    if [list(x) for x in a.steps] != [list(y) for y in b.steps]:
        return math.inf, math.inf
    loss = max(abs(x[k] - y[k]) / max(1.0, abs(y[k])) for x, y in zip(a.steps, b.steps, strict=True) for k in y)
    apart = sum(float((a.weights[k] - w).double().square().sum()) for k, w in b.weights.items())
    way = sum(float((w - _set_out(k, start)).double().square().sum()) for k, w in b.weights.items())
    return loss, math.sqrt(apart / way) if way else float(apart > 0)


def _set_out(name: str, start: dict[str, Tensor]) -> Tensor:
    """Where a weight began; a combined model's weights have its parts' names before their own."""
    return start[name if name in start else name.partition(".")[2]]
