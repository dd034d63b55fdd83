"""What tests of the store share: a stage that writes its inputs to a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from palimpsest.benchmark.running.store import Stage


def stage(build: Callable[[Path], Any] | None = None, kind: str = "held", label: str = "a stage", **inputs: Any) -> Stage:
    def write(folder: Path) -> dict[str, Any]:
        (folder / "deep").mkdir()
        (folder / "deep" / "weights").write_text(json.dumps(inputs))
        return {"tokens": 7}

    return Stage(kind, label, inputs, build or write)
