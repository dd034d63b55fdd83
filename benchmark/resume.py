"""Saves and restores a training run as safetensors and JSON. DeepSpeed's own files are pickles, so they are not used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


class Checkpoint:
    """One folder with the newest saved step. Works under ZeRO-0; under ZeRO 1 to 3 `load` finds nothing and training starts again."""

    def __init__(self, folder: Path, engine: Any, state: Any):
        self.folder, self.engine, self.state = folder, engine, state
        self.possible = engine.zero_optimization_stage() == 0

    def save(self, position: dict[str, Any]) -> None:
        if not self.possible or self.engine.global_rank != 0:
            return
        part = self.folder.with_name(self.folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        tensors = {}
        for name, p in self.engine.module.named_parameters():
            tensors["weight/" + name] = p.detach()
            for key, value in self._optimizer.state.get(p, {}).items():
                tensors[f"optimizer/{key}/{name}"] = torch.as_tensor(value)
        save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, part / "state.safetensors")
        position = position | {"method": self.state.state_dict() if self.state is not None else None}
        (part / "state.json").write_text(json.dumps(position))
        shutil.rmtree(self.folder, ignore_errors=True)
        part.rename(self.folder)

    def load(self) -> dict[str, Any] | None:
        """Restore weights, optimizer and method state; returns the saved position, or None if there is none."""
        if not self.possible or not (self.folder / "state.json").exists():
            return None
        position = json.loads((self.folder / "state.json").read_text())
        tensors = load_file(self.folder / "state.safetensors")
        for name, p in self.engine.module.named_parameters():
            p.data.copy_(tensors["weight/" + name])
            slots = {k.split("/")[1]: v for k, v in tensors.items() if k.startswith("optimizer/") and k.split("/", 2)[2] == name}
            if slots:
                self._optimizer.state[p] = {k: v.to(p.device) if v.ndim else v for k, v in slots.items()}
        if self.state is not None:
            self.state.load_state_dict(position["method"])
        return position

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return getattr(self.engine.optimizer, "optimizer", self.engine.optimizer)
