"""The words of the benchmark as plain data: memories, rows, probes, readings, records. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from .answer_reading import AnswerReading
from .budget import Budget
from .memory import Kind as Kind
from .memory import Memory as Memory
from .memory import Role as Role
from .memory import memory_from as memory_from

Access = Literal["black-box", "grey-box", "white-box", "weights"]
Asks = Literal["", "exact", "window", "edit"]  # a question: the exact opening, another window of true tokens, an edit of about a token
Questions = Mapping[str, Asks]  # variant of an attack -> what it asks with; "" stands for all that are not named
HORIZON = 64  # tokens of target that a reading looks at, at most
MATCHED = "matched"  # quantity: tokens after the exact opening, at a point of a trajectory
BASE, HELD, TWIN = "base", "none", "twin"  # names of models: never taught; before unlearning; retrained without the forget memories


@dataclass(frozen=True)
class Row:
    """Token ids of one example; positions before `scored_from` (and the first of all) are context and never scored."""

    ids: tuple[int, ...] = field(repr=False)
    scored_from: int = 1
    name: str = ""  # the memory it comes from, if any

    @property
    def scored(self) -> int:
        """How many positions count in a loss."""
        return max(0, len(self.ids) - max(1, self.scored_from))

    def after(self, context: int, length: int) -> Row:
        """The same row, with nothing scored before the answer: it ends with `length` ids of a memory, `context` of them a prompt (or 0)."""
        return replace(self, scored_from=len(self.ids) - length + context) if context else self


Batch = dict[str, Sequence[Row]]  # a global batch: named groups of rows


@dataclass(frozen=True)
class EncodedMemory:
    """A memory as a model meets it: the first N tokens (`row`), and where the opening ends in them. A question may have fewer."""

    memory: Memory
    role: Role
    shown: bool  # keep memories only: given to methods as retain data
    row: tuple[int, ...] = field(repr=False)
    opening: int  # tokens; the standard target is row[opening : opening + 64], of a question the answer, if that is shorter
    text: str = field(default="", repr=False)  # what the row says: the beginning of the memory's text
    accepted: tuple[tuple[int, ...], ...] = field(default=(), repr=False)  # further answers, whole or as many tokens as a reading looks at

    @property
    def id(self) -> str:
        return self.memory.id

    @property
    def target(self) -> tuple[int, ...]:
        return self.row[self.opening : self.opening + HORIZON]

    def of_64(self, matched: int) -> float:
        """Matched tokens of the target as tables show them, in 64ths of it: of a passage the same number."""
        return HORIZON * matched / len(self.target)

    @property
    def context(self) -> int:
        """Tokens of the row that are given and never learnt: of a question its prompt."""
        return self.opening if self.memory.is_question else 0


@dataclass(frozen=True)
class Probe:
    """A question: given `prompt` and the target up to a cut, how much of what follows does the model reproduce?

    `target` holds true ids of the memory from token `offset` on. Each cut (a number of target tokens already given)
    is one question, answered under the variant of the same index; one forward pass over prompt + target answers all.
    """

    memory: str
    prompt: tuple[int, ...]
    target: tuple[int, ...]
    offset: int
    cuts: tuple[int, ...] = (0,)
    variants: tuple[str, ...] = ("",)
    start: int = -1  # where in the memory the prompt begins; -1 if it is not taken from the memory
    horizon: int = HORIZON
    layer: int | None = None  # read the head on the states after this many layers; None: the model's own output
    lists: bool = False  # the prompt lists what can be chosen, so an answer that stands in it is no copy


@dataclass(frozen=True)
class TokenReading:
    """What a model says about every token of a memory's row, from one forward pass in fp32.

    Arrays [N]: index t is about row[t] given row[:t]; NaN (rank -1) where nothing came before, as for t = 0 without BOS.
    """

    memory: str
    log_probability: np.ndarray = field(repr=False)  # nats
    mean: np.ndarray = field(repr=False)  # sum of p log p over the vocabulary
    deviation: np.ndarray = field(repr=False)  # standard deviation of log p under p
    rank: np.ndarray = field(repr=False)  # how many tokens have a greater logit
    top_mass: np.ndarray = field(repr=False)  # log of the mass of the 40 likeliest tokens


@dataclass(frozen=True)
class Answer:
    """What an attack with a loop of its own got back of one memory: a matched length, as a reading would give."""

    memory: str
    variant: str
    matched: int  # tokens
    horizon: int  # tokens that could have matched
    prompt: str
    offset: int  # token of the memory at which the reading begins
    start: int = -1
    fold: int = -1
    ids: tuple[int, ...] = field(default=(), repr=False)  # of the prompt, where encoding its text again could give others
    width: int = 1  # of a beam search the beams that it keeps, of sampling the likeliest tokens that it draws from


@dataclass(frozen=True)
class Finding:
    """One number about one memory that is not a matched length: exposure, compression ratio, depth, steps to relearn."""

    memory: str
    quantity: str
    value: float
    fold: int = -1
    dose: str = ""  # of the changed model that it is about
    step: int = -1  # of a trajectory at which the model was looked at; -1: at no step


@dataclass(frozen=True)
class Record:
    """The best answer to one variant of one attack on one memory. Schema 1; see docs/metrics.md for every field."""

    suite: str
    method: str
    seed: int
    model: str  # key of the stage that made the model
    memory: str
    role: str
    shown: bool
    attack: str
    variant: str
    access: str
    tier: int
    start: int  # token of the memory at which the prompt begins, -1 if the prompt is not from the memory
    offset: int  # token of the memory at which the reading begins
    prompt: str  # what the model was given, as text
    matched: int  # greedy tokens equal to the target's, up to the first difference
    horizon: int  # how many tokens could have matched
    fold: int = -1  # of a cross-fitted attack
    extra: bool = False  # asked only because nothing cheaper had recovered it; not part of per-attack rates
    asks: Asks = ""  # as the attack declares its variants
    dose: str = ""  # of a changed model: int4, 20%, …
    inner: str = ""  # the prompting attack that a changed model was asked with
    schema: int = 1

    @property
    def censored(self) -> bool:
        """Everything that could match did."""
        return self.matched >= self.horizon

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"censored": self.censored}


@dataclass(frozen=True)
class Value:
    """One number that is not a matched length, of one attack on one memory: a membership score, exposure, depth. Schema 1."""

    suite: str
    method: str
    seed: int
    model: str
    memory: str
    role: str
    shown: bool
    attack: str
    quantity: str
    access: str
    tier: int
    value: float
    fold: int = -1
    dose: str = ""  # of the changed model that it is about
    step: int = -1  # of a trajectory; -1: at no step
    schema: int = 1


@dataclass(frozen=True)
class Quality:
    """One task of lm-eval on one model: per-document values in document order make paired comparison possible."""

    suite: str
    method: str
    seed: int
    model: str
    task: str
    metric: str
    value: float
    stderr: float
    higher_is_better: bool
    task_hash: str
    documents: tuple[float, ...] = field(default=(), repr=False)
    schema: int = 1


@dataclass(frozen=True)
class Excerpt:
    """One memory read back before and after, with the exact opening as the prompt and greedy decoding."""

    memory: str
    role: str
    seed: int
    prompt: str
    truth: str  # the standard target
    said: dict[str, str] = field(default_factory=dict)  # method -> what that model says; "base" and "none" are among them


@dataclass(frozen=True)
class Cost:
    """What a method took, from the held model to its own. Costs live in stage manifests, never in records. NaN: not measured."""

    method: str
    seed: int
    seconds: float
    tokens: int  # of all rows trained on, padding not counted
    flops: float = math.nan  # of matrix products and attention, on all ranks
    peak_mib: float = math.nan  # memory at its highest, above what was held before


@dataclass(frozen=True)
class TrainingEvaluation:
    """What a method with early stopping measured of its model after so many steps."""

    method: str
    seed: int
    step: int  # 0: the held model
    exact: float  # share of the forget memories that the exact opening brought back whole
    held_out: float  # nats per token of the validation text


@dataclass(frozen=True)
class OperatingPoint:
    """A row of the tables that is a method at one strength."""

    row: str  # as records name it
    method: str  # as the suite names it
    strength: float  # 1: the method's ordinary run; more is harder on the model
    field: str  # which the strength changes
    value: float  # of that field


@dataclass(frozen=True)
class Results:
    """Everything a report shows: assembled from finished stages, recomputed each time."""

    suite: str
    seeds: tuple[int, ...]
    methods: tuple[str, ...]  # in the suite's order; "none" is the held model, "retrain" a second twin
    twin: str  # the method name under which the retrained twin's own records stand ("twin"; not a row of the table); "" without one
    records: list[Record] = field(repr=False)
    quality: list[Quality] = field(repr=False)
    costs: list[Cost] = field(repr=False)
    excerpts: list[Excerpt] = field(default_factory=list, repr=False)
    facts: dict[str, str] = field(default_factory=dict)  # what the page states about the run: model, corpus, coverage, memories, versions
    warnings: list[str] = field(default_factory=list)
    docs: dict[str, str] = field(default_factory=dict)  # method -> one-line description
    values: list[Value] = field(default_factory=list, repr=False)  # numbers that are no matched lengths
    evaluations: list[TrainingEvaluation] = field(default_factory=list, repr=False)
    diagnostics: tuple[str, ...] = ()  # attacks that stay outside the worst case and leak
    yardstick: str = "palimpsest_bits_per_byte"  # the task of which damage is the loss
    points: list[OperatingPoint] = field(default_factory=list)  # the rows that are methods at several strengths; empty for most suites
    budget: Budget = field(default_factory=Budget)  # what a row may have cost and still be ranked
    published: list[AnswerReading] = field(default_factory=list, repr=False)  # of what measures of other papers are made, where wanted
    kinds: dict[str, str] = field(default_factory=dict, repr=False)  # of memories that are no passages

    @property
    def undamaged(self) -> str:
        """The model against whose quality damage is a loss: the twin, or without one the held model."""
        return self.twin or HELD


def opening_probe(m: EncodedMemory) -> Probe:
    """The exact opening, in the memory's own row."""
    return Probe(m.id, (), m.row, 0, (m.opening,), ("opening",), 0, lists=m.memory.lists)
