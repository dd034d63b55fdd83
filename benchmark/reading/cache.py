"""A cache of matched lengths, by a digest of what the model was asked; kept in a file without pickles."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..common.errors import UserError

Cache = Mapping[bytes, int]  # digest of a question -> matched length


def digests(ids: tuple[int, ...], spans: list[tuple[int, int]], layer: int | None) -> list[bytes]:
    """A name for each (what was given, where the reading begins, which layer): 16 bytes over ids[:end], begin and layer."""
    row = np.array(ids, "<i4").tobytes()
    return [hashlib.blake2b(row[: 4 * end] + f"{begin} {layer}".encode(), digest_size=16).digest() for begin, end in spans]


def save_cache(file: Path, cache: Cache) -> None:
    """Write what a model was asked and answered; the same cache gives the same bytes. An existing file is replaced at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    order = sorted(cache)
    keys = np.frombuffer(b"".join(order), np.uint8).reshape(-1, 16)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    save_file({"keys": keys, "matched": np.array([cache[k] for k in order], np.int32)}, part)
    part.replace(file)


def load_cache(file: Path) -> dict[bytes, int]:
    """What `save_cache` wrote; empty if there is no such file."""
    if not file.is_file():
        return {}
    try:
        content = load_file(file)
        keys, matched = content["keys"].tobytes(), content["matched"].tolist()
    except (SafetensorError, KeyError, OSError) as error:
        raise UserError(f"The answers in {file} cannot be read ({error}). Delete the file: they will be asked again.") from None
    return {keys[16 * i : 16 * i + 16]: m for i, m in enumerate(matched)}
