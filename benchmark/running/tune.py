"""Fair tuning: the same number of trials, the same limit of training tokens per trial and the same rule for every method.

The rule sees the exact opening, bits per byte, and shown keep memories that were kept back from the method. Among the trials whose bits
per byte are at most BUDGET over the retrained twin's, on the *validation* half of the quality documents, and that lose at most LOST of
the keep memories, take the lowest share of forget memories that come back whole, then the shortest mean matched length, then the least
damage. No attack that ranks methods is ever asked, and the roles are those of a partition that no table uses.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from ..common.errors import UserError
from ..common.fields import plain
from ..common.guard import untouched
from ..common.plugins import find
from ..common.progress import Progress, silent
from ..common.seeds import derive
from ..common.strangers import stranger
from ..common.types import EncodedMemory, opening_probe
from ..common.versions import READER, VERSIONS
from ..method import Descent, UnlearningData
from ..models.subject import Subject
from ..quality.harness import QualityBench
from ..reading.reader import Reader
from ..suites.config import QualityConfig, Suite
from ..suites.space import Range, Space
from .plan import Run
from .store import Store, canonical

TRIALS = 12  # of every method
STARTUP = 3  # of these are the method's own defaults and random draws, before the sampler learns from them
RULE = 2  # the rule and budgets of this page, for the log of trials; docs/metrics.md says what they were before
PASSES = (6, 12, 24)  # a trial trains on at most as many tokens as one of these many passes over the forget set; which, is searched
AMOUNT = "forget passes"  # the name under which it is drawn; no field can have it
BUDGET = 0.10  # bits per byte, relative to the twin; the held model itself is about 4% above it on pocket
LOST = 0.25  # share of the kept-back keep memories that the held model repeats, and the trial's model no longer
DOCUMENTS = 100  # of the validation half
TASK = "palimpsest_bits_per_byte"


@dataclass(frozen=True)
class Trial:
    """One setting of a method's fields and what came of it; `error` says why there is no result."""

    number: int
    drawn: dict[str, Any]  # by the sampler
    fields: dict[str, Any] = field(default_factory=dict)  # `drawn` and what follows from the token budget
    tokens: int = 0
    exact: float = math.nan  # share of the forget memories that the exact opening brings back whole
    matched: float = math.nan  # tokens, mean over the forget memories
    damage: float = math.nan  # bits per byte over the twin's, as a share of it
    lost: float = math.nan  # share of the keep memories that were kept back
    error: str = ""


def rule(trial: Trial) -> tuple[int, *tuple[float, ...]]:
    """Sorts trials, the best first: those within both budgets, then the others by how many times they are over one, then failed ones."""
    if trial.error:
        return (2,)
    over = max(trial.damage / BUDGET, trial.lost / LOST)
    if over > 1:
        return (1, over)
    return (0, trial.exact, trial.matched, trial.damage)


def tuning_suite(suite: Suite, method: str) -> Suite:
    """The suite on another partition of the memories, the validation half, the exact opening of all, and the method's own defaults."""
    quality = QualityConfig(tasks=(TASK,), documents=DOCUMENTS, half="validation")
    methods = {"none": {}, method: suite.methods.get(method, {})}
    return replace(
        suite,
        roles="tuning",
        seeds=suite.seeds[:1],
        track="",
        strengths=(),
        quality=quality,
        methods=methods,
        attacks={"prefix": {}},
        reasked={},
        ask="all",
    )


def tune(
    suite: Suite,
    method: str,
    store: Store,
    show: Callable[[Trial], Any],
    trials: int = TRIALS,
    progress: Progress = silent,
) -> list[Trial]:
    """Try a method's search space; returns the trials, the chosen one first. Finished trials are kept in the store's `tuning` folder."""
    tuning = Tuning(Run(tuning_suite(suite, method), store, progress), method)
    file = store.root / "tuning" / f"{tuning.plugin.cls.__name__}-{tuning.key}.jsonl"
    file.parent.mkdir(exist_ok=True)
    try:
        with FileLock(f"{file}.busy", timeout=0):
            database = Database(file, tuning.distributions)
            for trial in database.trials:
                show(trial)
            while len(done := database.trials) < trials:
                drawn = propose(tuning.distributions, done, tuning.seed) if done else tuning.defaults
                with untouched(f"a trial of {method}", tuning.held.folder, tuning.run.base.folder):
                    trial = tuning.attempt(len(done), drawn)
                database.add(trial)
                show(trial)
    except Timeout:
        raise UserError(f"Another process is tuning {method} in this store; wait for it, or use another store.") from None
    done.sort(key=rule)
    if done[0].error:
        raise UserError(f"All {len(done)} trials of {method} failed. The first: {done[0].error}")
    return done


def propose(distributions: dict[str, BaseDistribution], before: Sequence[Trial], seed: int) -> dict[str, Any]:
    """The next trial's values: a function of the seed and of the trials before it, so an interruption changes nothing.

    The sampler (TPE, Bergstra et al. 2011) is told nothing but each earlier trial's place under the rule.
    """
    sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=derive(seed, "trial", len(before)) % 2**32)
    study = optuna.create_study(sampler=sampler)
    for place, t in enumerate(sorted(before, key=rule)):
        study.add_trial(optuna.create_trial(params=t.drawn, distributions=distributions, value=place))
    return {name: _rounded(v, distributions[name]) for name, v in study.ask(distributions).params.items()}


class Database:
    """The finished trials of one search: a study in Optuna's journal, a file of JSON lines."""

    def __init__(self, file: Path, distributions: dict[str, BaseDistribution]):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.distributions = distributions
        storage = JournalStorage(JournalFileBackend(str(file)))
        self.study = optuna.create_study(storage=storage, study_name=file.stem, load_if_exists=True)

    @property
    def trials(self) -> list[Trial]:
        return [Trial(t.number, t.params, **t.user_attrs) for t in self.study.trials]

    def add(self, trial: Trial) -> None:
        known = {k: v for k, v in asdict(trial).items() if k not in ("number", "drawn")}
        state = optuna.trial.TrialState.FAIL if trial.error else optuna.trial.TrialState.COMPLETE
        value = None if trial.error else trial.exact
        self.study.add_trial(
            optuna.create_trial(state=state, value=value, params=trial.drawn, distributions=self.distributions, user_attrs=known)
        )


class Tuning:
    """A run bound to one method: tries settings of its fields on the held model, one at a time. What the suite sets is not searched."""

    def __init__(self, run: Run, method: str):
        self.run, self.plugin, self.given = run, find("method", method), run.suite.methods[method]
        space: Space = {k: v for k, v in getattr(self.plugin.cls, "search", {}).items() if k not in self.given}
        if not space:
            raise UserError(f"method {method} declares no search space (a class variable `search`); there is nothing to tune.")
        if "epochs" in space:
            raise UserError(f"method {method}: epochs cannot be searched, they follow from the budget of tokens; leave them out.")
        run.validate()
        self.plugin.make({name: v.low if isinstance(v, Range) else v[0] for name, v in space.items()})  # names and types are right
        self.seed = run.suite.seeds[0]
        data = run.data(self.seed, history=False)
        self.once = sum(len(r.ids) for r in data.forget)  # tokens of a pass over the forget set
        self.kept_back = {r.name for r in data.shown[1::2]}  # every other shown memory: what a method trains on says little about the rest
        self.distributions = {name: _distribution(v) for name, v in space.items()}
        held, twin = run.held(self.seed), run.twin(self.seed)
        quality = {k: v for k, v in plain(run.suite.quality).items() if k != "yardstick"}
        inputs = {
            "held": held.key,
            "twin": twin.key,
            "method": self.plugin.name,
            "source": self.plugin.source,
            "given": self.given,
            "search": {k: plain(v) for k, v in space.items()},
            "quality": quality,
            "tokens": [passes * self.once for passes in PASSES],
            "budgets": [BUDGET, LOST],
            "versions": [VERSIONS["method"], VERSIONS["quality"], READER],
        } | self.plugin.read_by(self.plugin.make(self.given))
        self.key = sha256(canonical(inputs).encode()).hexdigest()[:16]
        self.held, yardstick = (Subject(run.store.ensure(stage)) for stage in (held, twin))
        self.standard = _bits(run.bench, yardstick)
        keep = [m for m in run.encoded(self.seed) if m.id in self.kept_back]
        self.keep = [m for m, n in zip(keep, self._lengths(self.held, keep), strict=True) if n >= len(m.target)]
        if not self.keep:
            raise UserError(
                f"The held model repeats none of the {len(keep)} keep memories by which tuning tells what is lost; "
                "take more memories (per_role), or inject more often (injection.occurrences)."
            )
        self.defaults = {name: self.plugin.defaults[name] for name in space}  # the first trial
        if issubclass(self.plugin.cls, Descent):
            self.distributions[AMOUNT] = _distribution(PASSES)
            self.defaults[AMOUNT] = self._ordinary(self.plugin.make(self.given))

    def attempt(self, number: int, drawn: dict[str, Any]) -> Trial:
        """Unlearn with these fields and measure; what the method or its training refuses is a failed trial."""
        trial = Trial(number, drawn, drawn)
        scratch = self.run.store.root / ".scratch" / f"{self.key}-{number}"
        trainer = self.run.trainer(f"trial {number}", self.seed, scratch)
        limit = drawn.get(AMOUNT, PASSES[-1]) * self.once
        try:
            fields = {k: v for k, v in drawn.items() if k != AMOUNT}
            method = self.plugin.make({**self.given, **fields})
            data = self._data(method.needs_history)
            if isinstance(method, Descent):
                method = replace(method, epochs=max(1, limit // self._tokens(method, data)))
                fields |= {"epochs": method.epochs}
            trial = replace(trial, fields=fields)
            with stranger(f"method {self.plugin.name}"):
                subject = method.unlearn(self.held, data, trainer)
            if trainer.tokens > limit:
                raise UserError(f"{trainer.tokens} tokens were trained on, and this trial may train on {limit}.")
            forget = [m for m in self.run.encoded(self.seed) if m.role == "forget"]
            lengths = self._lengths(subject, forget)
            lost = sum(n < len(m.target) for m, n in zip(self.keep, self._lengths(subject, self.keep), strict=True)) / len(self.keep)
            damage = _bits(self.run.bench, subject) / self.standard - 1
            if not math.isfinite(damage):
                raise UserError("bits per byte are not finite.")
            exact = sum(n >= len(m.target) for m, n in zip(forget, lengths, strict=True)) / len(lengths)
            matched = sum(lengths) / len(lengths)
            trial = replace(trial, tokens=trainer.tokens, exact=exact, matched=matched, damage=damage, lost=lost)
        except UserError as error:
            trial = replace(trial, tokens=trainer.tokens, error=str(error))
        shutil.rmtree(scratch, ignore_errors=True)
        return trial

    def _data(self, history: bool) -> UnlearningData:
        """What a run would give the method, without the memories that are kept back."""
        data = self.run.data(self.seed, history)
        return replace(data, shown=[r for r in data.shown if r.name not in self.kept_back])

    def _ordinary(self, method: Descent) -> int:
        """The largest amount that is no more than the method's own passes take; else the smallest."""
        tokens = method.epochs * self._tokens(method, self._data(method.needs_history))
        return max((passes for passes in PASSES if passes * self.once <= tokens), default=PASSES[0])

    def _tokens(self, method: Descent, data: UnlearningData) -> int:
        """Tokens of one pass: it is dearer where retain text or other answers are trained on too."""
        once = replace(method, epochs=1)
        data = once.prepare(self.held, data)
        batch_at = once.batch_at(data)
        return sum(len(r.ids) for step in range(once.steps(data)) for rows in batch_at(step).values() for r in rows)

    def _lengths(self, subject: Subject, memories: Sequence[EncodedMemory]) -> list[int]:
        """Matched lengths after the exact opening."""
        return [answer[0] for answer in Reader(subject, self.run.suite.precision).read([opening_probe(m) for m in memories])]


def _distribution(values: Range | tuple[Any, ...]) -> BaseDistribution:
    return FloatDistribution(values.low, values.high, log=values.log) if isinstance(values, Range) else CategoricalDistribution(values)


def _rounded(value: Any, distribution: BaseDistribution) -> Any:
    """Three significant digits: what is tried is what a file can say."""
    if not isinstance(distribution, FloatDistribution):
        return value
    return min(max(float(f"{value:.3g}"), distribution.low), distribution.high)


def _bits(bench: QualityBench, subject: Any) -> float:
    return next(m.value for m in bench.measure(subject) if m.task == TASK)


def table(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """The trials, the chosen one first, as lines of a table."""
    return [
        {
            "rule": RULE,
            "trial": t.number,
            "fields": " ".join(f"{k}={v}" for k, v in t.fields.items()),
            "tokens": t.tokens,
            "exact": t.exact,
            "matched": t.matched,
            "damage": t.damage,
            "lost": t.lost,
            "note": ("chosen" if t is trials[0] else "", "over budget", "failed")[rule(t)[0]],
        }
        for t in trials
    ]
