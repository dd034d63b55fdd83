"""Saves and restores a training under ZeRO 1 to 3: each rank its own part of weights and optimizer, and a JSON file that names them.

Nothing is gathered, so saving needs no memory beyond the parts; a run goes on with as many ranks and the ZeRO stage that it had.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from ..common.processes import from_first_rank, gathered, is_main
from .resume import SHARE, Checkpoint, agreed

_log = logging.getLogger(__name__)


class Shards(Checkpoint):
    """`state.json` names the newest whole step's folder, `stepN`, with a file `rankR.safetensors` of each rank. Every rank calls all."""

    def __init__(self, folder: Path, engine: Any, state: Any, every: float):
        super().__init__(folder, engine, state, every)
        self.folder = folder
        self.possible = all(part.numel() for part in self._parts)  # not what DeepSpeed keeps on NVMe

    @property
    def due(self) -> bool:
        """Whether the first rank's clock says so."""
        return self.possible and from_first_rank(monotonic() - self.saved >= self.pause)

    def save(self, position: dict[str, Any]) -> None:
        """Replace what was saved by the present step, which counts when every rank has written its part."""
        began = monotonic()
        folder = self.folder / f"step{position['step']}"
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for i, part in enumerate(self._parts):
            tensors[f"weights/{i}"] = part.detach()
            for key, value in self._optimizer.state.get(part, {}).items():
                tensors[f"optimizer/{key}/{i}"] = torch.as_tensor(value)
        position = position | {"method": self.state.state_dict() if self.state is not None else None}
        _replace(folder / self._name, lambda part: save_file(_on_host(tensors), part, metadata={"position": json.dumps(position)}))
        gathered([True])  # every part is there
        if is_main():
            text = json.dumps({"step": position["step"], **self._layout}) + "\n"
            _replace(self.folder / "state.json", lambda part: part.write_text(text, "utf-8"))
            for old in self.folder.glob("step*"):
                if old != folder:
                    shutil.rmtree(old, ignore_errors=True)
        from_first_rank(True)  # it counts for all
        self.saved = monotonic()
        self.pause = self.every and max(self.every, (self.saved - began) / SHARE)

    def load(self) -> dict[str, Any] | None:
        """Restore this rank's part; None, and nothing changed, unless every rank can read one of this layout."""
        found = agreed(self._saved(), {f"weights/{i}": part for i, part in enumerate(self._parts)})
        if found is None:
            return None
        position, tensors = found
        with torch.no_grad():
            for i, part in enumerate(self._parts):
                part.data.copy_(tensors[f"weights/{i}"])
                self._optimizer.state[part] = {
                    name.split("/")[1]: value.to(self._place(name.split("/")[1], part))
                    for name, value in tensors.items()
                    if name.startswith("optimizer/") and name.endswith(f"/{i}")
                }
        self._compute_with_them()
        if self.state is not None:
            self.state.load_state_dict(position["method"])
        return position

    def _saved(self) -> Path | None:
        """This rank's part of the newest whole step, if it is of this layout."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads((self.folder / "state.json").read_text("utf-8"))
            file = self.folder / f"step{int(told.pop('step'))}" / self._name
            if told == self._layout:
                return file if file.is_file() else None
            was, now = (f"ZeRO-{x['zero']} on {x['ranks']} ranks" for x in (told, self._layout))
            if is_main() and was != now:
                _log.warning("A training was saved under %s, and under %s it begins anew. To go on, stop and start it as it was.", was, now)
        return None

    def _compute_with_them(self) -> None:
        """The weights that compute are made of the restored ones, as after a step."""
        zero = self.engine.optimizer
        if self.engine.zero_optimization_stage() < 3:
            zero.update_lp_params()
            return
        for i in range(len(self._parts)):
            zero._reassign_or_swap_out_partitioned_parameters(i)
        if zero.persistent_parameters:  # small ones that every rank keeps whole
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)

    def _place(self, key: str, part: Tensor) -> torch.device | str:
        """Kernels that are fused count steps where the weights are, others on the host."""
        here = key != "step" or any(group.get("fused") or group.get("capturable") for group in self._optimizer.param_groups)
        return part.device if here else "cpu"

    @property
    def _layout(self) -> dict[str, Any]:
        """What a part fits into."""
        return {"ranks": dist.get_world_size(), "zero": self.engine.zero_optimization_stage(), "weights": [p.numel() for p in self._parts]}

    @property
    def _name(self) -> str:
        return f"rank{dist.get_rank()}.safetensors"

    @property
    def _parts(self) -> list[Tensor]:
        """The weights in fp32 that this rank's optimizer changes, flat."""
        zero = self.engine.optimizer
        return zero.single_partition_of_fp32_groups if self.engine.zero_optimization_stage() < 3 else zero.fp32_partitioned_groups_flat


def checkpoint_of(folder: Path, engine: Any, state: Any, every: float) -> Checkpoint:
    """What saves and restores a training on an engine."""
    return (Shards if engine.zero_optimization_stage() else Checkpoint)(folder, engine, state, every)


def _on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.contiguous().cpu() for name, value in tensors.items()}


def _replace(file: Path, write: Any) -> None:
    part = file.with_suffix(".part")
    write(part)
    with part.open("rb") as written:
        os.fsync(written.fileno())
    part.replace(file)
