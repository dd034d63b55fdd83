"""What a model says about each token of each memory, saved as safetensors and sent as JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from ..common.types import TokenReading

QUANTITIES = tuple(f.name for f in fields(TokenReading) if f.name != "memory")


def save_readings(file: Path, readings: Mapping[str, TokenReading]) -> None:
    """Write the readings of one model."""
    save_file({f"{q}/{memory}": np.ascontiguousarray(getattr(r, q)) for memory, r in readings.items() for q in QUANTITIES}, file)


def load_readings(file: Path) -> dict[str, TokenReading]:
    """Memory -> reading, as they were saved."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, values in load_file(file).items():
        quantity, _, memory = name.partition("/")
        found[memory][quantity] = values
    return {memory: TokenReading(memory, **values) for memory, values in found.items()}


def plain_reading(reading: TokenReading) -> dict[str, Any]:
    """A reading as JSON values; numbers keep every digit."""
    return {"memory": reading.memory} | {q: [getattr(reading, q).dtype.str, getattr(reading, q).tolist()] for q in QUANTITIES}


def reading_from(plain: Mapping[str, Any]) -> TokenReading:
    """The reading that `plain_reading` took apart."""
    return TokenReading(plain["memory"], **{q: np.array(plain[q][1], plain[q][0]) for q in QUANTITIES})
