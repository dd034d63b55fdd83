"""What tests of the command line share: how the command is called, and a file of memories for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from palimpsest.benchmark.common.types import Memory

Command = Callable[..., tuple[int, str, str]]


def write_memories(file: Path, memories: list[Memory]) -> str:
    file.write_text("".join(json.dumps(asdict(m)) + "\n" for m in memories))
    return str(file)
