"""What runs in a process of its own: the author's method, on a held model that lies there, and nothing else.

No attack is asked and nothing is scored here: whatever this code does to its process, only weights come back, and these are checked.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from ..common.errors import UserError
from ..common.fields import build
from ..running.plan import Run
from ..running.store import Store
from ..suites.config import Suite

FAILED = 3  # status of a method that says what is wrong


def main(file: str) -> None:
    """Make the method's models as the job's file says; OUT/SEED/ holds each of them."""
    job: dict[str, Any] = json.loads(Path(file).read_text("utf-8"))
    _no_more_than(job["largest"])
    run = Run(build(Suite, job["suite"], "suite"), Store(Path(job["store"])))
    try:
        for seed in job["seeds"]:
            stage = run.model(job["method"], seed).stage
            assert stage is not None
            shutil.copytree(run.store.ensure(stage), Path(job["out"]) / str(seed), copy_function=shutil.copyfile)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(FAILED)


def _no_more_than(largest: int) -> None:
    """No file beyond so many bytes, and no memory dumped when the process is killed. Not on Windows, which knows no such limits."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
