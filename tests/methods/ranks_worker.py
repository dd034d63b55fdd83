"""One rank of whole unlearning runs: every method with parts or state of its own, through its own `unlearn`, under some ZeRO stages."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from palimpsest.benchmark.common.plugins import find
from palimpsest.benchmark.method import Trainer, UnlearningData
from palimpsest.benchmark.models.subject import Subject
from tests.benchmark.parity_worker import Result, rows

# name -> model of parity_worker, method, fields; the last of five forget rows is a batch of its own: one rank gets nothing
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "dpo": ("neox", "dpo", {}),
    "pdu": ("llama", "pdu", {"eta": 0.5}),
    "rmu": ("llama", "rmu", {"c": 2.0}),
    "sparse_finetuning": ("neox", "sparse_finetuning", {"weight_decay": 10.0, "share": 0.1}),
    "neuron_pruning": ("llama", "neuron_pruning", {"penalty": 0.1, "lr": 0.5}),
    "random_labels": ("neox", "random_labels", {}),
    "task_vector": ("neox", "task_vector", {"alpha": 2.0}),
    "npo_lora": ("llama", "npo", {"lora": {"rank": 2}, "lr": 1e-2}),
    "rmu_lora": ("neox", "rmu", {"c": 2.0, "lora": {"rank": 2}, "lr": 1e-2}),
}


def data() -> UnlearningData:
    """Random rows of unequal length; every forget row has an opening of 4 tokens and the end of another row as its alternative."""
    forget, retain = rows("forget"), rows("retain")
    other = {r.name: replace(r, ids=(*r.ids[:4], *reversed(r.ids[4:])), scored_from=4) for r in forget}
    return UnlearningData(forget, [], lambda k: retain[k % 3], seed=5, openings={r.name: 4 for r in forget}, alternatives=other)


def work(folder: Path, stages: Sequence[int]) -> None:
    """Run every case under every stage as this rank, and write steps and weights."""
    torch.set_num_threads(1)
    for stage, case in itertools.product(stages, CASES):
        model, name, fields = CASES[case]
        method = find("method", name).make({"epochs": 2, "batch": 4, "lr": 1e-3, **fields})
        trainer = Trainer("fp32", f"zero{stage}", seed=1)
        with trainer.meter:
            done = method.unlearn(Subject(folder / model), data(), trainer)
        out = place(folder, case, stage, dist.get_world_size(), dist.get_rank())
        assert done.state is not None
        save_file({k: v.contiguous() for k, v in done.state.items()}, out.with_suffix(".safetensors"))
        out.with_suffix(".json").write_text(json.dumps(trainer.steps))
        out.with_suffix(".cost").write_text(json.dumps(trainer.meter.cost()))


def place(folder: Path, case: str, stage: int, world: int, rank: int) -> Path:
    return folder / f"{case}-zero{stage}-world{world}-rank{rank}"


def read(folder: Path, case: str, stage: int, world: int, rank: int = 0) -> Result:
    file = place(folder, case, stage, world, rank)
    return Result(json.loads(file.with_suffix(".json").read_text()), load_file(file.with_suffix(".safetensors")))
