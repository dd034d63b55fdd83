"""Killed with signal 9 at any moment and started again, a run ends with the bytes that it would have had."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from palimpsest.benchmark.models.subject import Subject

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of documents of made-up words."""
    folder, draw = tmp_path_factory.mktemp("texts"), random.Random(0)
    for i in range(1000):
        words = ["".join(draw.choices("bdfgklmnprstaeiou", k=5)) for _ in range(120)]
        (folder / f"{i}.txt").write_text(". ".join(" ".join(words[k : k + 12]) for k in range(0, 120, 12)) + ".")
    return folder


def test_a_run_that_was_killed_again_and_again_ends_with_the_same_answers_values_quality_and_weights(
    tiny: Subject, texts: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.benchmark.kill_worker", str(tmp_path), str(tiny.folder), str(texts), "0"]
    environment = os.environ | {"PALIMPSEST_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ends"] == [0, *[-signal.SIGKILL] * (len(found["ends"]) - 2), 0], done.stderr
    assert len(found["ends"]) > 4
    kinds = {name.partition("/")[0] for name in found["whole"]}
    assert kinds == {"quality", "held", "twin", "method", "battery", "attack", "checks", "excerpts"}
    assert found["killed"] == found["whole"]
    assert found["left"] == []
