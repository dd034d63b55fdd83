"""The head read on the states between the layers (nostalgebraist 2020; Patil et al. 2023, arXiv 2309.17410)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..benchmark.attack import EncodedMemory, Probe, Prompting, Tools, blocks


@dataclass(frozen=True)
class LogitLens(Prompting):
    """The exact opening, answered by the head from the states after each layer below the last."""

    access = "white-box"

    def probes(self, memory: EncodedMemory, tools: Tools) -> Iterable[Probe]:
        for layer in range(1, len(blocks(tools.base.model))):
            yield Probe(memory.id, (), memory.row, 0, (memory.opening,), (f"layer{layer}",), start=0, layer=layer)
