"""Killed with signal 9 at any moment and started again, a run ends with the bytes that it would have had."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from palimpsest.benchmark.models.subject import Subject
from tests.micro import write_corpus

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_that_was_killed_again_and_again_ends_with_the_same_answers_values_quality_and_weights(tiny: Subject, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    write_corpus(texts)
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
