"""DeepSpeed engines: in-process on one device without launcher or port, or one per rank under the launcher."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..common.errors import UserError, unknown
from ..common.lines import read_text
from ..common.paths import CONFIGS
from ..common.processes import device, start_distributed

if TYPE_CHECKING:
    from .recipe import Recipe


KEYS = frozenset({  # of a configuration: how a training is spread over devices, and nothing that changes what it is
    "zero_optimization", "bf16", "zero_force_ds_cpu_optimizer", "communication_data_type", "gradient_predivide_factor",
    "prescale_gradients", "zero_allow_untested_optimizer", "comms_logger", "memory_breakdown", "wall_clock_breakdown",
})  # fmt: skip
OFFLOADS = ("offload_optimizer", "offload_param")


def deepspeed_file(name: str) -> Path:
    """`configs/deepspeed/NAME.json`, or a path."""
    folder = CONFIGS / "deepspeed"
    file = Path(name) if name.endswith(".json") else folder / f"{name}.json"
    if not file.is_file():
        raise unknown("DeepSpeed configuration", name, [f.stem for f in folder.glob("*.json")])
    return file


def deepspeed_config(name: str, precision: str, clip: float, micros: int) -> dict[str, Any]:
    """The JSON of `deepspeed_file(name)`, completed with what the recipe says."""
    file = deepspeed_file(name)
    if precision not in ("bf16", "fp32"):
        raise UserError(f"precision={precision!r}: expected bf16 (autocast over fp32 weights) or fp32.")
    try:
        config = json.loads(read_text(file))
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error}.") from None
    if not isinstance(config, dict):
        raise UserError(f"{file} should hold a JSON object, as configs/deepspeed/zero0.json does.")
    _require_ours(config, file)
    low = holds_low(config)
    if low and precision == "fp32":
        raise UserError(f"deepspeed={name} holds the weights in bf16 while they train, and the precision is fp32; say precision=bf16.")
    if low and _stage(config) == 0:
        raise UserError(f"{file} holds the weights in bf16 and partitions nothing; expected zero_optimization.stage 1, 2 or 3 with bf16.")
    return config | {
        "gradient_clipping": clip,
        "torch_autocast": {"enabled": precision == "bf16" and not low, "dtype": "bfloat16"},
        "zero_force_ds_cpu_optimizer": False,  # the optimizer is torch's, also where it is offloaded
        "train_micro_batch_size_per_gpu": 1,  # the loop deals the rows itself
        "gradient_accumulation_steps": micros,
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
    }


def _require_ours(config: dict[str, Any], file: Path) -> None:
    """Refuse what the training loop decides, what DeepSpeed would pass over without a word, and what it would end with a traceback."""
    if other := sorted(config.keys() - KEYS):
        raise UserError(f"{file} sets {', '.join(other)}; expected only {', '.join(sorted(KEYS))}: the rest is the suite's to say.")
    zero, low = config.get("zero_optimization", {}), config.get("bf16", {})
    if not isinstance(zero, dict) or not isinstance(low, dict):
        raise UserError(f"{file}: zero_optimization and bf16 should be objects, as in configs/deepspeed/zero3-offload.json.")
    if not isinstance(low.get("enabled", False), bool):
        raise UserError(f"{file}: bf16.enabled={low['enabled']!r}: expected true or false.")
    if (stage := zero.get("stage", 0)) not in range(4) or isinstance(stage, bool):
        raise UserError(f"{file}: zero_optimization.stage={stage!r}: expected 0, 1, 2 or 3.")
    if odd := [(k, value) for k, value in _leaves(config) if value in ("auto", "true", "false", "True", "False")]:
        why = "which Hugging Face's trainer fills in and nothing here does" if odd[0][1] == "auto" else "a text where a truth value belongs"
        raise UserError(f"{file}: {odd[0][0]} is {odd[0][1]!r}, {why}. Give it a value.")
    if odd := sorted(k for k in zero if "offload" in k and k not in OFFLOADS):
        raise UserError(f"{file}: zero_optimization has {', '.join(odd)}; expected {' or '.join(OFFLOADS)}.")
    if config.get("zero_force_ds_cpu_optimizer"):
        raise UserError(f"{file}: zero_force_ds_cpu_optimizer asks for DeepSpeed's own optimizer; the one here is torch's. Leave it out.")


def _leaves(part: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a configuration with its name, also in objects within it."""
    if isinstance(part, dict):
        for key, value in part.items():
            yield from _leaves(value, key)
    else:
        yield name, part


def holds_low(config: dict[str, Any]) -> bool:
    """Whether weights are in bf16 while they train, with an fp32 copy beside the optimizer that the steps change."""
    return bool(config.get("bf16", {}).get("enabled"))


def _stage(config: dict[str, Any]) -> int:
    return config.get("zero_optimization", {}).get("stage", 0)


def open_engine(module: nn.Module, recipe: Recipe, micros: int) -> Any:
    """A DeepSpeed engine over `module`, with torch's fused AdamW; matrices decay, vectors do not."""
    start_distributed()
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # else it compiles an all-reduce for inference, of which training has no use
    deepspeed.ops.__compatible_ops__ = {}  # pyright: ignore[reportAttributeAccessIssue]
    matrices = [p for p in module.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in module.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    config = deepspeed_config(recipe.deepspeed, recipe.precision, recipe.clip, micros)
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
    engine, *_ = deepspeed.initialize(model=module.to(device()), optimizer=optimizer, config=config, dist_init_required=False)
    _spare_exchange(engine)
    return engine


def _spare_exchange(engine: Any) -> None:
    """Let a single rank keep its gradients as they are: it would copy them into one tensor, exchange that with itself, and copy them back.

    Only where this changes no bit: gradients are exchanged in their own precision, and divided by one rank. Parameters that the
    loss did not reach still get a gradient of zeros, which the method replaced here does not make.
    """
    own = engine.communication_data_type == torch.float32 and engine.gradient_predivide_factor() == 1.0
    if dist.get_world_size() == 1 and engine.zero_optimization_stage() == 0 and own:
        engine._reduce_non_expert_gradients = lambda grads, elements_per_buffer: None


def full_state(model: nn.Module) -> dict[str, Tensor]:
    """Every weight in full, on the CPU, on every rank; gathers what ZeRO-3 has partitioned.

    Weights that compute in bf16 are given as the fp32 ones beside the optimizer are: rounding could undo a small update.
    """
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param

    out = {}
    for name, p in model.named_parameters():
        if p.dtype == torch.bfloat16 and p.requires_grad and (whole := safe_get_full_fp32_param(p)) is not None:
            out[name] = whole.detach().to("cpu", copy=True)
            continue
        with GatheredParameters([p], enabled=hasattr(p, "ds_id")):
            out[name] = p.detach().to("cpu", copy=True)
    for name, b in model.named_buffers():
        if name in model.state_dict():
            out[name] = b.detach().to("cpu", copy=True)
    return out


def let_go(engine: Any) -> None:
    """Free weights, gradients and optimizer state at once: circles hold a finished engine, and some ZeRO hooks are never let go."""
    engine.destroy()
    optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    optimizer.state.clear()
    for p in [*engine.module.parameters(), *(p for g in optimizer.param_groups for p in g["params"])]:
        p.grad = None
        p.data = p.data.new_empty(0)
        if hasattr(p, "ds_tensor"):  # this rank's part of it under ZeRO-3
            p.ds_tensor.data = p.ds_tensor.data.new_empty(0)
    if optimizer is not engine.optimizer:  # ZeRO's own, with flat copies of everything
        vars(engine.optimizer).clear()
