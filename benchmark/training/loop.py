"""The one training loop, on DeepSpeed: pretraining, injection, retraining and every loss-based method run through it.

The loop knows global batches only. A global batch is a dict of named groups of rows ("text", or "forget" and
"retain"); it is dealt to micro-batches and ranks in a fixed order. A loss returns *sums* with their unit and the loop
divides by the global count, so neither the number of ranks nor the accumulation can change a result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..common.errors import UserError
from ..common.processes import device, start_distributed
from ..common.progress import Progress, silent, terms
from ..common.types import Batch
from ..models.finite import require_finite
from ..models.logits import route
from ..models.precision import together
from .attention import QuickAttention
from .batches import Group, Loss, collate, counts, shape_of, validate_batch, validate_terms
from .engine import deepspeed_config, full_state, holds_low, let_go, open_engine
from .lora import Lora
from .metering import Meter
from .recipe import Recipe
from .resume import EVERY
from .shards import checkpoint_of

NEAR = 16  # rows of a group in one pass in fp32 on a CPU: what they hold stays near its caches; 32 took 1.14 times as long


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a model in training: numbers that join the loss terms of that step, and whether training ends with it."""

    metrics: dict[str, float]
    ends: bool = False


@dataclass(frozen=True)
class Extras:
    """What a training may be given beside model, batches, loss and recipe.

    `state` is what a method changes while it trains: an object with `state_dict`, `load_state_dict` and `after_step(terms)`.
    After each number of steps in `stops` (not 0), `at_stop` gets that number and the model as it is then, on every rank: a copy
    of its full weights from `train`, a `Subject` from `Trainer.fit`. It may return an `Evaluation`, the same on every rank. With
    `lora`, which `Trainer.fit` alone reads, only adapters are trained.
    """

    state: Any = None
    stops: Collection[int] = ()
    at_stop: Callable[[int, Any], Evaluation | None] | None = None
    lora: Lora | None = None


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
        validate_terms(terms, scale)
        scaled = {name: t.total.float() * t.weight * scale[t.group, t.unit] for name, t in terms.items()}
        return torch.stack(list(scaled.values())).sum(), {name: v.detach() for name, v in scaled.items()}


@dataclass
class Trained:
    """What a training run leaves: full weights by name, the loss terms of every step (and evaluations), the tokens it consumed."""

    state: dict[str, Tensor] = field(default_factory=dict, repr=False)
    steps: list[dict[str, float]] = field(default_factory=list, repr=False)
    tokens: int = 0


def train(
    model: nn.Module,
    batch_at: Callable[[int], Batch],
    loss: Loss,
    recipe: Recipe,
    extras: Extras = Extras(),
    *,
    resume: Path | None = None,
    save_every: float = EVERY,
    progress: Progress = silent,
    meter: Meter | None = None,
) -> Trained:
    """Train `model` for `recipe.steps` optimizer steps; the weights to keep are in the result, and `model` is empty afterwards.

    `batch_at(step)` must be a pure function of the step. With `resume`, the run is saved to that folder (safetensors)
    about every `save_every` seconds and continues from there. `meter` counts the FLOPs.
    """
    recipe = replace(recipe, precision=together(recipe.precision, model.config))
    vocabulary = model.get_input_embeddings().num_embeddings  # pyright: ignore
    validate_batch(first := batch_at(0), 0, vocabulary)
    whole = _in_full(model) if holds_low(deepspeed_config(recipe.deepspeed, recipe.precision, recipe.clip, 1)) else {}
    engine = _opened(model, loss, first, recipe)
    world = dist.get_world_size()
    checkpoint = checkpoint_of(resume, engine, extras.state, save_every) if resume else None
    out, start, meter = Trained(), 0, meter or Meter()
    if checkpoint and (found := checkpoint.load()):
        start, out.tokens, out.steps = found["step"], found["tokens"], found["steps"]
        meter.resumed(found["spent"])
    for step in range(start, recipe.steps):
        batch = batch_at(step)
        validate_batch(batch, step, vocabulary)
        for group in engine.optimizer.param_groups:
            group["lr"] = recipe.lr_at(step)
        sums = _step(engine, batch, recipe, step, meter, step == start)
        values = _over_ranks(sums, world)
        if not all(math.isfinite(v) for v in values.values()):
            raise UserError(f"The loss is not finite at step {step}: {values}. Lower lr (now {recipe.lr}) or clip (now {recipe.clip}).")
        out.steps.append(values)
        out.tokens += sum(len(r.ids) for rows in batch.values() for r in rows)
        if extras.state is not None:
            extras.state.after_step(values)
        evaluation = extras.at_stop(step + 1, full_state(model) | whole) if extras.at_stop and step + 1 in extras.stops else None
        if evaluation:
            values.update(evaluation.metrics)
        ends = step + 1 == recipe.steps or bool(evaluation and evaluation.ends)
        if checkpoint and checkpoint.due and not ends:
            checkpoint.save({"step": step + 1, "tokens": out.tokens, "steps": out.steps, "spent": meter.spent()})
        progress(terms(values), step + 1, recipe.steps)
        if ends:
            break
    out.state = full_state(model) | whole
    advice = f"Lower lr (now {recipe.lr}) or clip (now {recipe.clip})."
    require_finite(out.state.items(), f"The weights after step {len(out.steps)}, the last", advice)
    let_go(engine)
    return out


def _in_full(model: nn.Module) -> dict[str, Tensor]:
    """Weights that no step changes, as they are before an engine rounds them to bf16: the optimizer keeps no copy of them in fp32."""
    return {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters() if not p.requires_grad}


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
        with meter.batch(None if first else shape_of(batch, deal)):  # the first step may set up what the others use
            groups = {g: collate(rows, deal, engine.device, step) for g, rows in batch.items()}  # here: what is watched is slow
            value, terms = engine(groups, scale)
            engine.backward(value)
            engine.step()
        for name, v in terms.items():
            sums[name] = sums.get(name, 0.0) + v / micros
    return sums


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
