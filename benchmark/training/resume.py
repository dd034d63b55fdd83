"""Saves and restores a training run as one safetensors file. DeepSpeed's own files are pickles, so they are not used."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..common.errors import first_line
from ..common.processes import gathered, is_main

EVERY = 60.0  # seconds between two savings,
SHARE = 0.05  # and longer where saving itself would take more than this share of the time
Saved = tuple[dict[str, Any], dict[str, Tensor]]  # where a training was, and its tensors by name
_log = logging.getLogger(__name__)


class Checkpoint:
    """One folder with the newest saved step, under ZeRO-0, where the first rank has everything. `shards.py` has that of ZeRO 1 to 3."""

    def __init__(self, folder: Path, engine: Any, state: Any, every: float = EVERY):
        self.file, self.engine, self.state, self.every = folder / "state.safetensors", engine, state, every
        self.possible = engine.zero_optimization_stage() == 0
        self.pause, self.saved = every, monotonic()

    @property
    def due(self) -> bool:
        """Whether so much time has passed that the present step should be saved: by the clock, since steps may be long."""
        return self.possible and self.engine.global_rank == 0 and monotonic() - self.saved >= self.pause

    def save(self, position: dict[str, Any]) -> None:
        """Replace what was saved by the present step. An interruption at any moment leaves the one or the other, whole."""
        began = monotonic()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, p in self.engine.module.named_parameters():
            tensors["weight/" + name] = p.detach()
            for key, value in self._optimizer.state.get(p, {}).items():
                tensors[f"optimizer/{key}/{name}"] = torch.as_tensor(value)
        position = position | {"method": self.state.state_dict() if self.state is not None else None}
        part = self.file.with_suffix(".part")
        save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, part, metadata={"position": json.dumps(position)})
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(self.file)
        self.saved = monotonic()
        self.pause = self.every and max(self.every, (self.saved - began) / SHARE)

    def load(self) -> dict[str, Any] | None:
        """Restore all that was saved; returns the saved position. None, and nothing changed, unless all ranks can read it."""
        if not self.possible:
            return None
        names = {p: name for name, p in self.engine.module.named_parameters()}
        found = agreed(self.file if self.file.exists() else None, {"weight/" + name: p for p, name in names.items()})
        if found is None:
            return None
        position, tensors = found
        with torch.no_grad():
            for p, name in names.items():
                p.copy_(tensors["weight/" + name])
        self._restore([names[p] for group in self._optimizer.param_groups for p in group["params"]], tensors)
        if self.state is not None:
            self.state.load_state_dict(position["method"])
        return position

    def _restore(self, names: list[str], tensors: dict[str, Tensor]) -> None:
        """Give the optimizer its state by its own door: it knows what belongs on the device (a fused Adam's step) and what does not."""
        slots: dict[str, dict[str, Tensor]] = {}
        for full, value in tensors.items():
            kind, _, rest = full.partition("/")
            if kind == "optimizer":
                key, _, name = rest.partition("/")
                slots.setdefault(name, {})[key] = value
        state = {place: slots[name] for place, name in enumerate(names) if name in slots}
        self._optimizer.load_state_dict({"state": state, "param_groups": self._optimizer.state_dict()["param_groups"]})

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return getattr(self.engine.optimizer, "optimizer", self.engine.optimizer)


def agreed(file: Path | None, weights: Mapping[str, Tensor]) -> Saved | None:
    """What a file holds that has these weights; None on every rank unless all can read theirs. Every rank must call it.

    A damaged one is named and costs time alone: the training begins anew, and its next saving replaces the file.
    """
    found, why = None, "" if file else "missing"
    if file:
        try:
            found = _read(file, weights)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            why = f"{file}: {first_line(error)}"
    reasons = gathered([why])
    if not any(reasons):
        return found
    if is_main() and (damaged := [reason for reason in reasons if reason not in ("", "missing")]):
        _log.warning("A training was saved that cannot be read (%s). It begins anew; nothing needs to be done.", "; ".join(damaged))
    elif is_main() and "" in reasons:
        ranks = ", ".join(str(rank) for rank, reason in enumerate(reasons) if reason)
        _log.warning("A training was saved that ranks %s do not find, so it begins anew. Let all ranks see one store.", ranks)
    return None


def _read(file: Path, weights: Mapping[str, Tensor]) -> Saved:
    with safe_open(file, "pt") as content:
        position = json.loads((content.metadata() or {}).get("position", "null"))
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118, it is no dictionary
    if not isinstance(position, dict) or "method" not in position:
        raise ValueError("it does not say where the training was")
    if wrong := [name for name, w in weights.items() if name not in tensors or tensors[name].shape != w.shape]:
        raise ValueError(f"its {wrong[0]} is missing or of another shape")
    return position, tensors
