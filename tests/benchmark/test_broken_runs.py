"""A run that is interrupted, damaged or led astray by a method: the same bytes in the end, or an error that names it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.running.assemble import results as assemble
from palimpsest.benchmark.running.plan import Run
from palimpsest.benchmark.running.store import Store
from palimpsest.benchmark.suites.config import QualityConfig
from tests.benchmark.micro_run import again


def test_a_run_that_was_interrupted_again_and_again_ends_with_the_same_bytes(whole: Run, tmp_path: Path) -> None:
    store, done = Store(tmp_path), 0
    for where in ("retrained twin", "npo", "attacks of tier 0 on retrain", "quality of gradient_ascent"):

        def stop(what: str, step: int, of: int, where: str = where) -> None:
            if what.startswith(where):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Run(whole.suite, store, stop).execute()
        before = {s.key for s in whole.plan if store.done(s)}
        assert done < len(before) < len(whole.plan)
        done = len(before)
        with pytest.raises(UserError, match=rf"{len(whole.plan) - done} of {len(whole.plan)} stages are not done yet"):
            assemble(Run(whole.suite, store))
    finished: list[Any] = []
    Run(whole.suite, store).execute(finished.append)
    assert {s.key for s in finished} == {s.key for s in whole.plan} - before
    compared = 0
    for stage in whole.plan:
        for name in (
            "answers.parquet",
            "findings.parquet",
            "tokens.safetensors",
            "quality.jsonl",
            "excerpts.jsonl",
            "model.safetensors",
            "trajectory.jsonl",
        ):
            if (file := whole.store.folder(stage) / name).exists():
                assert (store.folder(stage) / name).read_bytes() == file.read_bytes(), (stage.label, name)
                compared += 1
    assert compared == 2 * 15 + 5 + 6 + 1 + 2 * 5


def test_a_damaged_held_model_is_reported_before_anything_reads_it(whole: Run, tmp_path: Path) -> None:
    suite = replace(whole.suite, methods={"none": {}, "npo": {}}, quality=QualityConfig(tasks=("palimpsest_bits_per_byte",), documents=8))
    run = Run(suite, Store(tmp_path))
    weights = run.store.ensure(run.held(0)) / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors is missing or changed"):
        run.store.ensure(run.model("npo", 0).stage)
    with pytest.raises(UserError, match=r"model\.safetensors is missing or changed"):
        run.store.ensure(run.attacking.stages(run.model("none", 0))[0])


VANDAL = """
import json
from dataclasses import dataclass

from palimpsest.benchmark.method import Method


@dataclass(frozen=True)
class Vandal(Method):
    def unlearn(self, held, data, train):
        file = held.folder / "config.json"
        changed = json.loads(file.read_text()) | {"rope_theta": 1.0}
        file.unlink()
        file.write_text(json.dumps(changed))
        return held
"""


def test_a_method_that_changes_the_held_model_on_disk_is_named_and_leaves_no_stage(whole: Run, tmp_path: Path) -> None:
    (tmp_path / "vandal.py").write_text(VANDAL)
    name = f"{tmp_path / 'vandal.py'}:Vandal"
    run = Run(replace(whole.suite, methods={"none": {}, name: {}}), Store(tmp_path / "store"))
    shutil.copytree(whole.store.folder(whole.held(0)), run.store.folder(run.held(0)))
    with pytest.raises(UserError, match=r"Vandal, seed 0 changed files that it may only read: config.json in .*held"):
        run.store.ensure(run.model(name, 0).stage)
    assert not run.store.done(run.model(name, 0).stage)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise SystemExit(0)", r"method .*mine\.py, seed 0: it asked the program to exit \(status 0\)"),
        ("return None", r"method .*mine\.py, seed 0: unlearn should return the unlearned Subject, and returned NoneType"),
        ("return held.nothing", r"method .*mine\.py, seed 0: AttributeError: .*\(mine\.py, line 6\)"),
    ],
)
def test_a_method_that_goes_wrong_ends_the_run_with_its_name_and_stage(body: str, message: str, whole: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom palimpsest.benchmark.method import Method\n@dataclass(frozen=True)\nclass Mine(Method):\n"
        f"    def unlearn(self, held, data, train):\n        {body}\n"
    )
    with pytest.raises(UserError, match=message):
        again(whole, methods={"none": {}, str(file): {}}).execute()
