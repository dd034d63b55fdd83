"""How much memory training takes, from the number of weights and the DeepSpeed setting: before anything is begun."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ..common.processes import device
from ..models.precision import config_of
from ..models.subject import Subject
from ..training.engine import deepspeed_config, holds_low
from ..training.recipe import Recipe
from .plan import Run

GB = 1e9
LIBRARIES = 1.5e9  # bytes of a process before it opens a model
ADAM = 8  # bytes a weight: two moments in fp32
KEPT = 17  # numbers that a layer keeps for the backward pass, for each token and unit of width
HEAD = 2 * 4  # bytes a logit: itself and its gradient, in fp32
ROWS = Recipe().micro_batch


@dataclass(frozen=True)
class Shape:
    """What memory depends on in a model. `weights`: all of them; `largest`: of the largest module that ZeRO-3 gathers at once."""

    weights: int
    largest: int
    layers: int
    width: int
    vocabulary: int


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank in training, on its device and on its host. On a CPU they are one memory."""

    device: float
    host: float


def shape_of(run: Run) -> Shape:
    """Of the run's base model. An ordinary model is not loaded for it."""
    return run.once("shape", lambda: _shape(run.base))


def _shape(base: Subject) -> Shape:
    if (base.folder / "config.json").is_file():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config_of(base), trust_remote_code=False)
    else:
        model = base.fresh()
    config, sizes = model.config.get_text_config(), [p.numel() for p in model.parameters()]
    return Shape(sum(sizes), max(sizes), config.num_hidden_layers, config.hidden_size, config.vocab_size)


def training_memory(shape: Shape, config: dict[str, Any], tokens: int, head: int, micros: int = 1, ranks: int = 1) -> Memory:
    """Of one rank, by arithmetic.

    `config`: a completed DeepSpeed configuration. `tokens`: of one micro-batch, of which a step has `micros`. `head`: positions whose
    logits are held at once. Fragmentation and communication buffers are not in it: leave a tenth of the card.
    """
    zero = config.get("zero_optimization", {})
    stage, low = zero.get("stage", 0), holds_low(config)
    autocast = bool(config.get("torch_autocast", {}).get("enabled"))
    offloaded = (zero.get("offload_optimizer") or {}).get("device") == "cpu"
    n, shared, each = shape.weights, ceil(shape.weights / ranks), 2 if low else 4
    weights = each * (shared if stage == 3 else n)
    gathered = each * (shape.largest + 2 * n // max(1, shape.layers)) if stage == 3 else 0  # the layer at work and the next
    gradients = each * (shared if stage >= 2 else n)
    copy = 4 if low or stage in (1, 2) else 0  # fp32 weights that the optimizer changes, beside those that compute
    optimizer = (copy + ADAM) * (shared if stage else n)
    width = 2 if low or autocast else 4  # bytes of a number that is computed
    active = KEPT * width * tokens * shape.width * shape.layers + HEAD * head * shape.vocabulary + (2 * n if autocast else 0)
    if offloaded:  # gradients leave the device as they come; DeepSpeed keeps them on the host in their own precision as well.
        # At the end every rank has all weights in fp32 there.
        flat = (2 if low else 0) * (2 if stage == 2 and micros > 1 else 1)
        return Memory(
            weights + gathered + active, optimizer + (4 + flat) * shared + 4 * n + LIBRARIES
        )  # at the end every rank has all weights
    # what is kept for the backward pass goes as gradients come; those of an earlier micro-batch are there already
    rest = gradients + active if micros > 1 else max(gradients, active)
    return Memory(weights + gathered + optimizer + rest, LIBRARIES)


def of_training(run: Run, ranks: int = 1) -> Memory:
    """Of the run's injection, the largest of its trainings, on each of `ranks` ranks. The host opens the model in fp32 first."""
    c = run.suite.injection
    shape = shape_of(run)
    config = deepspeed_config(run.suite.deepspeed, run.precision, 1.0, 1)
    rows = min(ceil(c.batch / ranks), ROWS)
    micros = ceil(c.batch / (rows * ranks))
    found = training_memory(shape, config, rows * (run.suite.row + c.offset), run.suite.row, micros, ranks)
    return opened(shape, found)


def opened(shape: Shape, training: Memory) -> Memory:
    """The memory of a training on a host that opens the model in fp32 first, and has it once more to train."""
    return Memory(training.device, max(training.host, LIBRARIES + 2 * 4 * shape.weights))


def host_memory(run: Run, kind: str, ranks: int) -> float:
    """Bytes of a host that a stage of a kind takes with all its ranks: on a CPU all that training takes."""
    base = LIBRARIES + 3 * 4 * shape_of(run).weights  # the base, the model asked and its weights as saved
    if kind not in ("held", "twin", "method", "attack"):
        return base * ranks
    found = of_training(run, ranks)
    return ranks * max(base, found.host + (0 if device().type == "cuda" else found.device))
