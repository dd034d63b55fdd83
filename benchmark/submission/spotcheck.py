"""The level `spotcheck`: a random slice of the answers of tiers 0 and 1, asked again on the submitted weights.

Which answers is drawn after the submission, from the verifier's own seed. None of the author's code is run.
"""

from __future__ import annotations

import math
import random
import secrets
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..battery.answers import BestAnswer, read_answers
from ..battery.shared_pass import ask_all
from ..common.errors import UserError
from ..common.progress import within
from ..common.types import HELD, TWIN, TokenReading
from ..models.subject import Subject
from ..running.model import Model
from ..running.store import Store
from ..running.who_is_asked import SHARED
from .bundle import MODEL, hashes, weights_in, weights_key
from .foreign import adopted, weights_file
from .levels import Case, Finding, agreed
from .row import Row, row_in
from .ties import could_be

NATS = 1e-3  # of the log-probability of a token: sums in another order move it by a hundredth of that
ONE_IN = 20  # of the answers, for the chance of seeing that so many were changed
Asked = tuple[str, int, str, str]  # model, seed, attack, memory


@dataclass
class Seen:
    """What asking again gave."""

    equal: int = 0
    ties: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    apart: float = 0.0  # nats: the largest difference between log-probabilities of tokens

    def finding(self, what: str, said: str) -> Finding:
        count = self.equal + len(self.ties) + len(self.wrong)
        ties = f"; {len(self.ties)} at a tie of two logits ({self.ties[0]})" if self.ties else ""
        equal = f"{self.equal} of {count} answers are equal{ties}; {said}"
        return agreed(what, self.wrong and [equal, *self.wrong], equal)


def check(case: Case) -> Iterator[Finding]:
    """Weights first, then what they answer."""
    bundle, options = case.bundle, case.options
    if not bundle.info.hub and not any(bundle.weights(key) for key in bundle.info.weights):
        why = "the bundle neither holds weights nor names them on a hub, so nothing can be asked; ask its author for --weights or --hub"
        yield Finding("weights", None if case.level != "spotcheck" else False, why)
        return
    row = row_in(bundle, case.suite)
    row.progress = options.progress
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory(prefix="palimpsest-spotcheck-") as name:
        try:
            opened = {s: _opened(row, case, s, Path(name)) for s in row.suite.seeds}
        except UserError as error:
            yield Finding("weights", False, str(error))
            return
        yield Finding("weights", True, f"{len(opened)} files, each with the hash that the entry tells")
        draw = random.Random(f"{seed} {bundle.sha256}")
        yield _again(row, [row.method], {(row.method, s): o for s, o in opened.items()}, draw, options.slice, seed)
    yield _null(row, options.store, draw, options.slice, seed)


def _opened(row: Row, case: Case, seed: int, folder: Path) -> Subject:
    """The model of a seed. Its file, or those of its parts, must also be what the stage was saved as."""
    made, told = weights_in(row.manifest(seed)), case.bundle.told_weights(seed)
    files = {part: weights_file(case.bundle, weights_key(seed, part), folder) for part in made}
    if {part: sha[:16] for part, sha in told.items()} != made:
        raise UserError(f"weights of seed {seed} ({hashes(told)}) are not those of the stage that was attacked ({hashes(made)})")
    return adopted(row.folder(seed), row.base, folder / str(seed), files)


def _null(row: Row, store: Path, draw: random.Random, size: int, seed: int) -> Finding:
    """The same for held models and twins, whose records decide what counts as leak, where the verifier has the very same models."""
    what, mine = "answers of held model and twin", Store(store) if store.is_dir() else None
    subjects: dict[tuple[str, int], Subject] = {}
    for s in row.suite.seeds:
        for name, stage in ((HELD, row.held(s)), (TWIN, row.twin(s))):
            if mine and mine.done(stage) and _weights(mine, stage) == _weights(row.store, stage):
                subjects[name, s] = Subject(mine.ensure(stage))
    if not subjects:
        return Finding(what, None, f"the store {store} has none that are the author's to the bit; retrain makes them")
    names = [HELD, TWIN] if row.method != HELD else [TWIN]
    return _again(row, names, subjects, draw, size, seed, what)


def _weights(store: Store, stage) -> str:
    return store.manifest(stage)["files"].get(MODEL, "")


def _again(
    row: Row, names: Sequence[str], subjects: dict[tuple[str, int], Subject], draw: random.Random, size: int, seed: int, what: str = ""
) -> Finding:
    """Ask a slice again and compare."""
    models = [row.model(n, s) for s in row.suite.seeds for n in names if (n, s) in subjects]
    told: dict[Asked, list[BestAnswer]] = defaultdict(list)
    for model in models:
        for stage in _stages(row, model):
            for a in read_answers(row.store.folder(stage)):
                told[model.name, model.seed, a.attack, a.memory].append(a)
    chosen = draw.sample(sorted(told), min(size, len(told)))
    seen = Seen()
    for model in models:
        subject, mine = subjects[model.name, model.seed], [c for c in chosen if c[:2] == (model.name, model.seed)]
        if mine:
            _compare(row, model, subject, {(a, m): told[model.name, model.seed, a, m] for _, _, a, m in mine}, seen)
        subject.release()
    changed = max(1, len(told) // ONE_IN)
    chance = 1 - math.comb(len(told) - changed, len(chosen)) / math.comb(len(told), len(chosen))
    said = f"{len(chosen)} of {len(told):,} questions drawn, seed {seed}; log-probabilities of tokens within {seen.apart:.1g} nats"
    if not seen.wrong:
        said += f"; had one in {ONE_IN} been changed, that would be seen with a chance of {chance:.0%}"
    return seen.finding(what or f"answers of {row.method}", said)


def _stages(row: Row, model: Model):
    return [s for s in row.attacking.stages(model) if s.kind == "battery"]


def _compare(row: Row, model: Model, subject: Subject, told: dict[tuple[str, str], list[BestAnswer]], seen: Seen) -> None:
    """The questions of one model: lengths must be equal, but where two logits tie."""
    memories, probes = {m.id: m for m in model.memories}, row.who.probes(model.seed)
    armed = {a.name: a for a in row.who.attacks if a.attack.tier <= SHARED}
    asked = [(armed[a], [memories[m] for b, m in told if b == a]) for a in dict.fromkeys(a for a, _ in told)]
    few = [memories[m] for m in dict.fromkeys(m for _, m in told)]
    out = ask_all(subject, probes, asked, "auto", within("asking again", row.progress), few)
    found = {(a.attack, a.memory, a.variant): a for a in out.answers}
    for (attack, memory), answers in told.items():
        new = {v for a, m, v in found if (a, m) == (attack, memory)}
        if new != {a.variant for a in answers}:
            seen.wrong.append(f"{model.label}, {memory}: {attack} is recorded with other variants than it asks")
            continue
        for was in answers:
            now, what = found[attack, memory, was.variant], f"{attack} {was.variant}".strip()
            same = (was.start, was.offset, was.prompt, was.horizon) == (now.start, now.offset, now.prompt, now.horizon)
            if was.matched == now.matched and (same or not was.matched):
                seen.equal += 1
                continue
            said = f"{model.label}, {memory}: {what} is recorded with {was.matched} tokens, and these weights give {now.matched}"
            mine = [p for p in probes.of(armed[attack], [memories[memory]]) if was.variant in p.variants]
            tie = could_be(subject, mine, was.variant, was.matched)
            (seen.ties if tie else seen.wrong).append(said)
    if (readings := row.attacking.readings(model)) and any(a.attack.tier == 0 for a in armed.values()):
        for m in few:
            _readings(model, m.id, readings[m.id], out.readings[m.id], seen)


def _readings(model: Model, memory: str, was: TokenReading, now: TokenReading, seen: Seen) -> None:
    """What membership scores are made of."""
    apart = float(np.nanmax(np.abs(was.log_probability.astype(float) - now.log_probability), initial=0.0))
    gone = not np.array_equal(np.isnan(was.log_probability), np.isnan(now.log_probability))
    seen.apart = max(seen.apart, apart)
    if gone or apart > NATS:
        seen.wrong.append(f"{model.label}, {memory}: log-probabilities of its tokens differ by up to {apart:.3g} nats; at most {NATS:g}")
