"""The one training loop, on DeepSpeed: pretraining, injection, retraining and every loss-based method run through it.

The loop knows global batches only. A global batch is a dict of named groups of rows ("text", or "forget" and
"retain"); it is dealt to micro-batches and ranks in a fixed order. A loss returns *sums* with their unit and the loop
divides by the global count, so neither the number of ranks nor the accumulation can change a result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .attention import QuickAttention
from .engine import device, full_state, let_go, open_engine, start_distributed
from .errors import UserError, unknown
from .finite import require_finite
from .limits import SCHEDULES
from .logits import route
from .metering import Meter
from .precision import together
from .resume import EVERY, Checkpoint
from .types import Row

IGNORED = -100
NEAR = 16  # rows of a group in one pass in fp32 on a CPU: what they hold stays near its caches; 32 took 1.14 times as long


@dataclass(frozen=True)
class Group:
    """One micro-batch of one group: ids [B, T] padded on the right, labels [B, T] with -100 where nothing is scored.

    `labels[:, t]` is the id *at* t, to be predicted from the position before. `names` are the rows'
    names; `real` [B] is False for a row that only fills an empty micro-batch.
    """

    ids: Tensor
    labels: Tensor
    names: tuple[str, ...]
    real: Tensor
    serial: Tensor  # [B], the row's place in the whole run: for draws that must not depend on ranks


@dataclass(frozen=True)
class Term:
    """A summed loss term: the trainer divides it by the global number of `unit`s of `group` and multiplies by `weight`."""

    total: Tensor
    unit: str  # "tokens" or "sequences"
    group: str
    weight: float | Tensor = 1.0


@dataclass(frozen=True)
class Look:
    """What was seen of a model in training: numbers that join the loss terms of that step, and whether training ends with it."""

    seen: dict[str, float]
    ends: bool = False


Terms = dict[str, Term]
Batch = dict[str, Sequence[Row]]
Loss = Callable[[nn.Module, dict[str, Group]], Terms]


@dataclass(frozen=True)
class Recipe:
    """How to train. `micro_batch` is the largest number of rows per group, rank and forward pass; `batch`es come with the data."""

    lr: float = 1e-3
    steps: int = 100
    schedule: str = "constant"  # one of SCHEDULES
    warmup: float = 0.0  # share of the steps
    final_lr: float = 0.1  # where linear and cosine end, as a share of lr
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    micro_batch: int = 32
    precision: str = "auto"  # bf16 autocast or fp32; auto: whichever is faster here
    deepspeed: str = "zero0"  # a file in configs/deepspeed, or a path
    seed: int = 0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)

    def lr_at(self, step: int) -> float:
        """The learning rate of step `step` (0-based)."""
        warm = self.warmup * self.steps
        if step < warm:
            return self.lr * min(1.0, (step + 1) / warm)
        done = (step - warm) / max(1.0, self.steps - warm)
        if self.schedule == "constant":
            return self.lr
        fall = done if self.schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * done)
        return self.lr * (1 - (1 - self.final_lr) * fall)


class LossModule(nn.Module):
    """Holds the model and computes the loss inside its own forward, so that ZeRO-3 gathers what the loss touches."""

    def __init__(self, model: nn.Module, loss: Loss):
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, groups: dict[str, Group], scale: dict[tuple[str, str], float]) -> tuple[Tensor, dict[str, Tensor]]:
        on_cpu = next(self.model.parameters()).device.type == "cpu"
        with QuickAttention() if on_cpu else nullcontext():  # where it does nothing it still costs: every call passes it
            terms = self.loss(self.model, groups)
        _check_terms(terms, scale)
        scaled = {name: t.total.float() * t.weight * scale[t.group, t.unit] for name, t in terms.items()}
        return torch.stack(list(scaled.values())).sum(), {name: v.detach() for name, v in scaled.items()}


@dataclass
class Trained:
    """What a training run leaves: full weights by name, the loss terms of every step (and what was seen there), the tokens it consumed."""

    state: dict[str, Tensor] = field(default_factory=dict, repr=False)
    steps: list[dict[str, float]] = field(default_factory=list, repr=False)
    tokens: int = 0


def train(
    model: nn.Module,
    batch_at: Callable[[int], Batch],
    loss: Loss,
    recipe: Recipe,
    *,
    resume: Path | None = None,
    save_every: float = EVERY,
    progress: Callable[[int, dict[str, float]], Any] | None = None,
    state: Any = None,
    stops: Collection[int] = (),
    at_stop: Callable[[int, dict[str, Tensor]], Look | None] | None = None,
    meter: Meter | None = None,
) -> Trained:
    """Train `model` for `recipe.steps` optimizer steps; the weights to keep are in the result, and `model` is empty afterwards.

    `batch_at(step)` must be a pure function of the step. With `resume`, the run is saved to that folder (safetensors)
    about every `save_every` seconds under ZeRO-0 and continues from there. `state` is an optional object with
    `state_dict`, `load_state_dict` and `after_step(terms)`: what a method changes while it trains. After
    each number of steps in `stops` (not 0), `at_stop` gets that number and a copy of the full weights, on every rank;
    it may return a `Look`, the same on every rank. `meter` counts the FLOPs.
    """
    recipe = replace(recipe, precision=together(recipe.precision, model.config))
    vocabulary = model.get_input_embeddings().num_embeddings  # pyright: ignore
    _check_batch(first := batch_at(0), 0, vocabulary)
    engine = _opened(model, loss, first, recipe)
    world = dist.get_world_size()
    checkpoint = Checkpoint(resume, engine, state, save_every) if resume else None
    out, start, meter = Trained(), 0, meter or Meter()
    if checkpoint and (found := checkpoint.load()):
        start, out.tokens, out.steps = found["step"], found["tokens"], found["steps"]
        meter.resumed(found["spent"])
    for step in range(start, recipe.steps):
        batch = batch_at(step)
        _check_batch(batch, step, vocabulary)
        for group in engine.optimizer.param_groups:
            group["lr"] = recipe.lr_at(step)
        sums = _step(engine, batch, recipe, step, meter, step == start)
        values = _over_ranks(sums, world)
        if not all(math.isfinite(v) for v in values.values()):
            raise UserError(f"The loss is not finite at step {step}: {values}. Lower lr (now {recipe.lr}) or clip (now {recipe.clip}).")
        out.steps.append(values)
        out.tokens += sum(len(r.ids) for rows in batch.values() for r in rows)
        if state is not None:
            state.after_step(values)
        look = at_stop(step + 1, full_state(model)) if at_stop and step + 1 in stops else None
        if look:
            values.update(look.seen)
        ends = step + 1 == recipe.steps or bool(look and look.ends)
        if checkpoint and checkpoint.due and not ends:
            checkpoint.save({"step": step + 1, "tokens": out.tokens, "steps": out.steps, "spent": meter.spent()})
        if progress:
            progress(step + 1, values)
        if ends:
            break
    out.state = full_state(model)
    advice = f"Lower lr (now {recipe.lr}) or clip (now {recipe.clip})."
    require_finite(out.state.items(), f"The weights after step {len(out.steps)}, the last", advice)
    let_go(engine)
    return out


def _opened(model: nn.Module, loss: Loss, first: Batch, recipe: Recipe) -> Any:
    """An engine that trains the model, from the recipe's seed and for batches like the first."""
    torch.manual_seed(recipe.seed)
    _without_dropout(model)
    if hasattr(model, "get_output_embeddings"):
        route(model)  # while its weights are whole
    start_distributed()
    return open_engine(LossModule(model, loss), recipe, _micros(first, recipe, dist.get_world_size()))


def _step(engine: Any, batch: Batch, recipe: Recipe, step: int, meter: Meter, first: bool) -> dict[str, Tensor]:
    """One optimizer step over a global batch, dealt to micro-batches and ranks; this rank's share of each loss term."""
    rank, world = dist.get_rank(), dist.get_world_size()
    micros = _micros(batch, recipe, world)
    if engine.gradient_accumulation_steps() != micros:
        engine.set_train_batch_size(micros * world * engine.train_micro_batch_size_per_gpu())
    scale = {k: world * micros / max(1, n) for k, n in counts(batch).items()}
    sums: dict[str, Tensor] = {}
    for micro in range(micros):
        engine.set_gradient_accumulation_boundary(micro == micros - 1)  # its own count assumes equal steps
        deal = slice(micro * world + rank, None, micros * world)
        groups = {g: collate(rows, deal, engine.device, step) for g, rows in batch.items()}
        with meter.batch(None if first else _shape(batch, deal)):  # the first step may set up what the others use
            value, terms = engine(groups, scale)
            engine.backward(value)
            engine.step()
        for name, v in terms.items():
            sums[name] = sums.get(name, 0.0) + v / micros
    return sums


def _check_terms(terms: Any, scale: Mapping[tuple[str, str], float]) -> None:
    """What a loss gave is named terms with a unit that can be counted, one of them with a gradient."""
    if not isinstance(terms, Mapping) or not terms or not all(isinstance(t, Term) for t in terms.values()):
        got = {k: type(t).__name__ for k, t in terms.items()} if isinstance(terms, Mapping) else type(terms).__name__
        raise UserError(f"The loss should return a dict of name -> Term, at least one; it returned {got}.")
    for name, t in terms.items():
        if (t.group, t.unit) not in scale:
            known = "; ".join(f"{unit} of {group}" for group, unit in sorted(scale))
            raise UserError(f"The loss term {name!r} counts {t.unit!r} of {t.group!r}; this batch has {known}.")
        if not isinstance(t.total, Tensor) or t.total.numel() != 1:
            raise UserError(f"The loss term {name!r} should hold one number, a sum, as a tensor.")
    if torch.is_grad_enabled() and not any(t.total.requires_grad for t in terms.values()):
        raise UserError("No term of the loss depends on the weights that are trained: there is no gradient.")


def _check_batch(batch: Any, step: int, vocabulary: int) -> None:
    """A batch is named groups of rows whose ids the model knows."""
    if not isinstance(batch, Mapping) or not batch or not all(rows for rows in batch.values()):
        raise UserError(f"The batch of step {step} should be a dict of group -> rows, at least one row each; got {batch!r:.80}.")
    for group, rows in batch.items():
        for r in rows:
            if not isinstance(r, Row) or not r.ids:
                raise UserError(f"The batch of step {step} holds {r!r:.80} in {group!r}; expected a Row with token ids.")
            if not 0 <= min(r.ids) <= max(r.ids) < vocabulary:
                raise UserError(f"Row {r.name!r} of {group!r} at step {step} holds an id beyond the model's {vocabulary} tokens.")


def counts(batch: Batch) -> dict[tuple[str, str], int]:
    """(group, unit) -> how many over the whole global batch: what sums are divided by."""
    out = {}
    for name, rows in batch.items():
        out[name, "tokens"] = sum(r.scored for r in rows)
        out[name, "sequences"] = len(rows)
    return out


def collate(rows: Sequence[Row], deal: slice, device: torch.device | str, step: int = 0) -> Group:
    """The rows of one micro-batch, padded on the right. If none fall to it, one unscored row keeps the ranks in step."""
    mine = list(range(len(rows)))[deal] or [0]
    real = len(range(len(rows))[deal]) > 0
    longest = max(len(rows[i].ids) for i in mine)
    ids = torch.zeros(len(mine), longest, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for b, i in enumerate(mine):
        row = torch.tensor(rows[i].ids, dtype=torch.long)
        ids[b, : len(row)] = row
        if real:
            begin = max(1, rows[i].scored_from)
            labels[b, begin : len(row)] = row[begin:]
    flags = torch.full((len(mine),), real)
    serial = torch.tensor([step * len(rows) + i for i in mine])
    return Group(ids.to(device), labels.to(device), tuple(rows[i].name for i in mine), flags.to(device), serial.to(device))


def _shape(batch: Batch, deal: slice) -> Hashable:
    """What decides how much work a micro-batch is: of each group the number of rows, the longest of them, the scored tokens."""
    dealt = [(name, rows[deal], rows[:1]) for name, rows in batch.items()]  # one row stands in where none is dealt
    return tuple((g, len(mine), max(len(r.ids) for r in mine or first), sum(r.scored for r in mine)) for g, mine, first in dealt)


def _micros(batch: Batch, recipe: Recipe, world: int) -> int:
    near = recipe.precision == "fp32" and device().type == "cpu"
    size = min(recipe.micro_batch, NEAR) if near else recipe.micro_batch
    return max(1, math.ceil(max(len(rows) for rows in batch.values()) / (size * world)))


def _over_ranks(sums: dict[str, Tensor], world: int) -> dict[str, float]:
    """Each rank's term is scaled by the number of ranks, so the mean over ranks is the global value."""
    stacked = torch.stack([torch.as_tensor(v) for v in sums.values()]).double()
    if world > 1:
        dist.all_reduce(stacked)
        stacked /= world
    return dict(zip(sums, stacked.tolist(), strict=True))


def _without_dropout(model: nn.Module) -> None:
    """Train the very function that is read. Setting each `nn.Dropout` to 0 would not do: OPT calls `F.dropout` with its own number."""
    model.eval()
