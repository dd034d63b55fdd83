"""What an unlearning method is, what it is given, and the inherited loop of the loss-based ones."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common.errors import UserError
from .common.limits import Count, NotNegative, Part, Positive, RetainLoss, Schedule, Share, one_of
from .common.processes import device
from .common.seeds import rng
from .common.types import Batch, EncodedMemory, Row
from .models.blocks import blocks, down_projection, states_after
from .models.logits import route
from .models.subject import Subject
from .models.weights import linear_weights
from .reading.early_stopping import EarlyStopping, Monitor
from .suites.space import Range, Space, Strength
from .texts.stream import Stream
from .training.batches import IGNORED, Group, Loss, Term, Terms, collate
from .training.loop import Evaluation, Extras
from .training.lora import Lora
from .training.losses import at_scored, language_model_loss, nll_of_rows, nll_sum, scored_logits, sequence_nll, token_nll
from .training.recipe import Recipe
from .training.trainer import Trainer

State = dict[str, Tensor]


@dataclass(frozen=True)
class History:
    """How the held model came to be; only methods that declare `needs_history` get it."""

    base: Subject
    stream: Stream  # the held model's own stream

    def replay(self, trainer: Trainer, loss: Loss = language_model_loss, *, forget: bool, order: str = "stream") -> Subject:
        """Train the base on the stream again, with or without the forget set, with another loss or in another order."""
        stream = replace(self.stream, forget=forget, order=order)
        c = stream.config
        recipe = Recipe(
            lr=c.lr,
            steps=stream.steps,
            schedule=c.schedule,
            warmup=c.warmup,
            final_lr=c.final_lr,
            weight_decay=c.weight_decay,
            micro_batch=c.batch,
        )
        return trainer.fit(self.base, stream.batch_at, loss, recipe)


@dataclass(frozen=True)
class UnlearningData:
    """All that a method may see: the forget texts, retain text, and the shown half of the keep memories."""

    forget: Sequence[Row]
    shown: Sequence[Row]
    retain: Callable[[int], Row] = field(repr=False)  # row k of an endless supply of ordinary text
    seed: int = 0
    history: History | None = None
    openings: Mapping[str, int] = field(default_factory=dict)  # forget row's name -> how many of its ids are the opening
    alternatives: Mapping[str, Row] = field(default_factory=dict, repr=False)  # name -> the opening and an authored other continuation
    monitor: Monitor | None = None  # what `stop` evaluates; a method itself has no use for it


def alternatives(memories: Sequence[EncodedMemory], base: Subject) -> dict[str, Row]:
    """Name -> opening and alternative continuation, joined by ids and cut to the row's length; only the continuation is scored.

    Of a question, its first wrong answer, whole.
    """
    out = {}
    for m in memories:
        said = " " + m.memory.alternative if m.memory.alternative else next(iter(m.memory.wrong), "")
        if said:
            other = base.tokenizer(said, add_special_tokens=False)["input_ids"]
            opening = base.with_bos(m.row[: m.opening])
            most = None if m.memory.is_question else len(base.with_bos(m.row))
            out[m.id] = Row((*opening, *other)[:most], len(opening), m.id)
    return out


class Method(ABC):
    """Turns the held model into an unlearned model. A plug-in is a frozen dataclass; its fields are hyper-parameters."""

    needs_history: ClassVar[bool] = False
    paper: ClassVar[str] = ""
    strength: ClassVar[Strength | None] = None  # the field that an operating curve varies; None: it stands there as one point

    def reads(self) -> Iterable[Path]:
        """Files and folders whose content the result depends on, besides what is given: their hash becomes part of keys."""
        return ()

    @abstractmethod
    def unlearn(self, held: Subject, data: UnlearningData, train: Trainer) -> Subject:
        """Return the unlearned model; `held` must not be changed."""


@dataclass
class Reference:
    """What the held model says: log-probabilities of the forget rows computed once, logits only on request."""

    held: Subject
    rows: Sequence[Row] = field(repr=False, default=())
    seed: int = 0  # for what a loss draws

    @cached_property
    def _table(self) -> dict[str, float]:
        if len({r.name for r in self.rows}) < len(self.rows):
            raise UserError("The forget rows need names that differ: the reference is looked up by name.")
        return dict(zip((r.name for r in self.rows), (-nll for nll in nll_of_rows(self.held.model, self.rows)), strict=True))

    def mean_nll(self, rows: Sequence[Row]) -> float:
        """The held model's mean loss per scored token of any rows, in nats."""
        return sum(nll_of_rows(self.held.model, rows)) / max(1, sum(r.scored for r in rows))

    def log_probability(self, group: Group) -> Tensor:
        """log p_ref(x) per row [B], summed over its scored tokens; from the table, so it costs no forward pass."""
        return torch.tensor([self._table[name] for name in group.names], device=group.ids.device)

    @torch.no_grad()
    def logits(self, group: Group) -> Tensor:
        """The held model's logits [N, V] at the group's scored positions: one forward pass of a second model."""
        return scored_logits(self.held.model, group)[0].float()

    @torch.no_grad()
    def states(self, group: Group, layer: int) -> Tensor:
        """The held model's states [N, H] after block `layer`, where a scored token is predicted: one forward pass."""
        return scored_states(self.held.model, group, layer)


class Adapted(Subject):
    """A subject whose fresh copies get parts of their own to train (masks, gates), which end in ordinary weights.

    `attach` changes a fresh model: it may freeze weights and put modules in place of others. `fold` turns the
    weights of such a model, by name, back into those of the architecture.
    """

    def __init__(self, inner: Subject, attach: Callable[[Any], Any], fold: Callable[[State], State] = lambda state: state):
        super().__init__(inner.folder)
        self.inner, self.attach, self.fold = inner, attach, fold

    def fresh(self) -> Any:
        model = self.inner.fresh()
        self.attach(model)
        return model

    def with_state(self, state: State) -> Subject:
        return self.inner.with_state(self.fold(state))


@dataclass(frozen=True)
class Descent(Method):
    """A method that is one loss: the loop over forget and retain rows is inherited.

    Most methods define `loss` and nothing else. The rest may be overridden: `prepare` (the data as the method wants
    it), `batch_at`, `reference` (which rows the held model is asked about), `start` (an `Adapted` subject trains parts of
    the model) and `state` (an object that changes while training, as `Extras` says). Groups that
    `batch_at` adds, and the state, reach the loss as further keyword arguments.
    """

    lr: Positive = 1e-4
    epochs: Count = 5  # passes over the forget set
    batch: Count = 8  # forget rows per step, and as many retain rows
    schedule: Schedule = "constant"
    warmup: Part = 0.0
    weight_decay: NotNegative = 0.0
    shown_share: Part = 0.5  # of the retain rows: shown keep memories; the rest is ordinary text
    lora: Lora | None = None  # lora.rank and lora.alpha of adapters that are trained in place of the weights; None: the weights are
    stop: EarlyStopping | None = None  # stop.every, stop.exact and stop.rise: when to evaluate, and when to end early; None: never

    uses_retain: ClassVar[bool] = True
    search: ClassVar[Space] = {"lr": Range(1e-5, 3e-3)}  # what `palimpsest tune` tries; epochs follow from its budget of tokens
    strength: ClassVar[Strength] = Strength("lr")

    @abstractmethod
    def loss(self, model: nn.Module, forget: Group, retain: Group, reference: Reference) -> Terms:
        """Named summed terms; the trainer divides each by the global count of its unit."""

    def steps(self, data: UnlearningData) -> int:
        return self.epochs * math.ceil(len(data.forget) / self.batch)

    def batch_at(self, data: UnlearningData) -> Callable[[int], Batch]:
        """Forget rows in a new order each epoch; retain rows from the shown memories and from ordinary text in turn."""
        per_epoch = math.ceil(len(data.forget) / self.batch)
        shown = round(self.batch * self.shown_share) if data.shown else 0

        def at(step: int) -> Batch:
            epoch, place = divmod(step, per_epoch)
            order = rng(data.seed, "forget", epoch).permutation(len(data.forget))
            chosen = order[place * self.batch : (place + 1) * self.batch]
            batch: Batch = {"forget": [data.forget[i] for i in chosen]}
            if self.uses_retain:
                first = step * shown
                rows = [self._shown(data, first + i) for i in range(shown)]
                text = self.batch - shown
                batch["retain"] = rows + [data.retain(step * text + i) for i in range(text)]
            return batch

        return at

    def prepare(self, held: Subject, data: UnlearningData) -> UnlearningData:
        return data

    def reference(self, held: Subject, data: UnlearningData) -> Reference:
        return Reference(held, data.forget, data.seed)

    def start(self, held: Subject, data: UnlearningData) -> Subject:
        return held

    def state(self, data: UnlearningData, reference: Reference) -> Any:
        return None

    def unlearn(self, held: Subject, data: UnlearningData, train: Trainer) -> Subject:
        data = self.prepare(held, data)
        reference = self.reference(held, data)
        state = self.state(data, reference)
        own = {} if state is None else {"state": state}
        recipe = Recipe(
            lr=self.lr,
            steps=self.steps(data),
            schedule=self.schedule,
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            micro_batch=self.batch,
        )

        def loss(model: nn.Module, groups: dict[str, Group]) -> Terms:
            some = next(iter(groups.values()))
            more = {k: g for k, g in groups.items() if k not in ("forget", "retain")}
            return self.loss(model, groups.get("forget", some), groups.get("retain", some), reference, **more, **own)

        start, batch_at = self.start(held, data), self.batch_at(data)
        if self.stop is None:
            return train.fit(start, batch_at, loss, recipe, Extras(state, lora=self.lora))
        stops = range(self.stop.every, recipe.steps + 1, self.stop.every)
        return train.fit(start, batch_at, loss, recipe, Extras(state, stops, self._evaluating(self.stop, held, data, train), self.lora))

    @staticmethod
    def _evaluating(stop: EarlyStopping, held: Subject, data: UnlearningData, train: Trainer) -> Callable[[int, Subject], Evaluation]:
        monitor = data.monitor
        if monitor is None or not monitor.text:
            raise UserError(
                "A method with early stopping needs held-out text to evaluate on, and none was given here; run it without `stop`."
            )
        before = train.before = monitor.evaluate(held, train.precision)
        held.release()

        def evaluate(step: int, there: Subject) -> Evaluation:
            metrics = monitor.evaluate(there, train.precision)
            return Evaluation(metrics, stop.ends(before, metrics))

        return evaluate

    @staticmethod
    def _shown(data: UnlearningData, k: int) -> Row:
        epoch, place = divmod(k, len(data.shown))
        return data.shown[rng(data.seed, "shown", epoch).permutation(len(data.shown))[place]]


def retain_term(kind: str, model: nn.Module, retain: Group, reference: Reference, weight: float) -> Term:
    """The retain side of a loss, summed over scored tokens: "nll", or "kl" = KL(p_ref || p) over scored positions only."""
    if kind == "nll":
        return Term(nll_sum(model, retain), "tokens", "retain", weight)
    if kind != "kl":
        raise UserError(f"retain_loss={kind!r}: expected nll or kl.")
    logits, _, _ = scored_logits(model, retain)
    theirs = F.log_softmax(reference.logits(retain), -1)
    total = F.kl_div(F.log_softmax(logits.float(), -1), theirs, reduction="sum", log_target=True)
    return Term(total, "tokens", "retain", weight)


def scored_states(model: nn.Module, group: Group, layer: int) -> Tensor:
    """States [N, H] after block `layer` at the positions that predict a scored token."""
    return at_scored(states_after(model, group.ids, layer), group)
