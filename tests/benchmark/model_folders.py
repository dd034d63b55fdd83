"""What tests of opening models share: small models in folders, and how their files are changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from palimpsest.benchmark.common.processes import device
from palimpsest.benchmark.models.subject import Subject, open_subject

SHAPE = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 128,
}  # fmt: skip


def made(folder: Path, config: Any, tokenizer: Any) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def configured(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def weighted(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def logits(model: Any) -> Tensor:
    """What it says of a row, on this process's device, so that models of the library and ours are compared on the same one."""
    with torch.no_grad():
        return model.to(device())(torch.arange(20, 40, device=device())[None]).logits.cpu()


def saved(subject: Subject, folder: Path) -> Subject:
    folder.mkdir()
    subject.save(folder)
    return open_subject(str(folder))
