"""DeepSpeed engines: in-process on one device without launcher or port, or one per rank under the launcher."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .errors import UserError, unknown
from .lines import read_text
from .paths import CONFIGS

if TYPE_CHECKING:
    from .training import Recipe

T = TypeVar("T")


def device() -> torch.device:
    """The device of this process: its own GPU if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def machine() -> str:
    """What the time of a piece of work depends on here, beside the work: the kind of device, and the threads of a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(device())
    return f"cpu, {torch.get_num_threads()} threads"


def start_distributed() -> None:
    """Join the launcher's process group, or make one of a single process that needs no port."""
    if dist.is_initialized():
        return
    keep_memory()
    gpu = torch.cuda.is_available()
    backend = "nccl" if gpu else "gloo"
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if gpu else "cpu")
    if gpu:
        torch.cuda.set_device(device())  # what names no device, such as a new tensor on "cuda", means this rank's own
    if "RANK" in os.environ and "MASTER_ADDR" in os.environ:
        dist.init_process_group(backend)
    else:
        os.environ.setdefault("LOCAL_RANK", "0")
        store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    atexit.register(_leave)


def _leave() -> None:
    """Dissolve the process group at exit, which NCCL warns of otherwise."""
    if dist.is_initialized():
        dist.destroy_process_group()


def keep_memory() -> None:
    """Tell glibc to keep freed pages: a training step on the CPU otherwise spends a third of its time on page faults."""
    if sys.platform == "linux" and not torch.cuda.is_available():
        libc = ctypes.CDLL(None)
        with contextlib.suppress(AttributeError):  # a C library without mallopt
            libc.mallopt(ctypes.c_int(-4), ctypes.c_int(0))  # M_MMAP_MAX: no block has a mapping of its own
            libc.mallopt(ctypes.c_int(-1), ctypes.c_int(2**31 - 1))  # M_TRIM_THRESHOLD: do not give pages back


def is_main() -> bool:
    """True in the one process that writes files and shows progress."""
    return not dist.is_initialized() or dist.get_rank() == 0


def agreed(value: bool) -> bool:
    """What the first rank says; every rank must call it. A meeting point as well."""
    if is_alone():
        return value
    flag = torch.tensor([int(value)], device=device())
    dist.broadcast(flag, src=0)
    return bool(flag.item())


def is_alone() -> bool:
    """True where there are no other ranks."""
    return not dist.is_initialized() or dist.get_world_size() == 1


def gathered(items: list[Any]) -> list[Any]:
    """The items (JSON values) of every rank, in the order of the ranks, on every rank; every rank must call it."""
    if is_alone():
        return items
    mine = torch.frombuffer(bytearray(json.dumps(items).encode()), dtype=torch.uint8).to(device())
    sizes = [torch.zeros(1, dtype=torch.long, device=mine.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(mine)], device=mine.device))
    longest = int(max(int(size) for size in sizes))
    parts = [torch.zeros(longest, dtype=torch.uint8, device=mine.device) for _ in sizes]
    dist.all_gather(parts, torch.nn.functional.pad(mine, (0, longest - len(mine))))
    texts = [bytes(part[: int(size)].cpu().numpy()) for part, size in zip(parts, sizes, strict=True)]
    return [item for text in texts for item in json.loads(text)]


def my_share(items: Sequence[T]) -> list[T]:
    """What this rank works on of items that are independent of each other."""
    if not dist.is_initialized():
        return list(items)
    return list(items[dist.get_rank() :: dist.get_world_size()])


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
    config.setdefault("gradient_clipping", clip)
    config.setdefault("torch_autocast", {"enabled": precision == "bf16", "dtype": "bfloat16"})
    return config | {
        "train_micro_batch_size_per_gpu": 1,  # the loop deals the rows itself
        "gradient_accumulation_steps": micros,
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
    }


def open_engine(module: nn.Module, recipe: Recipe, micros: int) -> Any:
    """A DeepSpeed engine over `module`, with torch's fused AdamW; matrices decay, vectors do not."""
    start_distributed()
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    vars(deepspeed.ops)["__compatible_ops__"] = {}  # else it compiles an all-reduce for inference, of which training has no use
    matrices = [p for p in module.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in module.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    config = deepspeed_config(recipe.deepspeed, recipe.precision, recipe.clip, micros)
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
    engine, *_ = deepspeed.initialize(model=module.to(device()), optimizer=optimizer, config=config, dist_init_required=False)
    return engine


def full_state(model: nn.Module) -> dict[str, Tensor]:
    """Every weight in full, on the CPU, on every rank; gathers what ZeRO-3 has partitioned."""
    from deepspeed.runtime.zero import GatheredParameters

    out = {}
    for name, p in model.named_parameters():
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
