"""One rank of two that train under ZeRO, are stopped and go on: how far do they end from where they would have been?"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from palimpsest.benchmark.models.subject import Subject
from palimpsest.benchmark.training.loop import Extras, Trained, train
from palimpsest.benchmark.training.losses import language_model_loss
from palimpsest.benchmark.training.recipe import Recipe
from tests.benchmark.uneven_rows import furthest, uneven

RECIPE = Recipe(lr=1e-3, steps=5, schedule="linear", warmup=0.3, weight_decay=0.1, micro_batch=4, precision="fp32")
STOP = 3  # steps before the interruption


class StoppedError(Exception):
    """Stands for whatever ends a run early."""


def stop(what: str, done: int, of: int) -> None:
    if done == STOP:
        raise StoppedError


def compared(start: Subject, setting: str, folder: Path, loss: Any, state: Any = lambda: None) -> tuple[list[int], bool, float]:
    """Train without interruption, and with one; `state` makes what the method changes while it trains."""
    recipe = replace(RECIPE, deepspeed=setting, precision="bf16" if "offload" in setting else "fp32")

    def run(**how: Any) -> Trained:
        mine = state()
        return train(start.fresh(), uneven, mine.loss if mine else loss, recipe, Extras(mine), **how)

    straight = run()
    try:
        run(resume=folder, save_every=0, progress=stop)
    except StoppedError:
        pass
    else:
        raise AssertionError("it was not stopped")
    seen: list[int] = []
    resumed = run(resume=folder, save_every=0, progress=lambda what, done, of: seen.append(done))
    return seen, resumed.steps == straight.steps and resumed.tokens == straight.tokens, furthest(resumed.state, straight.state)


def work(model: Path, folder: Path, settings: Sequence[str]) -> None:
    """The first rank writes JSON: setting -> [steps seen after resuming, is the history the same, the largest difference of a weight]."""
    torch.set_num_threads(1)
    found = {s: compared(Subject(model), s, folder / s, language_model_loss) for s in settings}
    if os.environ["RANK"] == "0":
        (folder / "found.json").write_text(json.dumps(found))


def apart(model: Path, folder: Path) -> None:
    """Each rank looks for what was saved in a folder of its own, and writes the steps that it took after an interruption."""
    torch.set_num_threads(1)
    rank, seen = os.environ["RANK"], list[int]()
    how: dict[str, Any] = {"resume": folder / f"of rank {rank}", "save_every": 0}
    with suppress(StoppedError):
        train(Subject(model).fresh(), uneven, language_model_loss, RECIPE, progress=stop, **how)
    train(Subject(model).fresh(), uneven, language_model_loss, RECIPE, progress=lambda what, done, of: seen.append(done), **how)
    (folder / f"{rank}.json").write_text(json.dumps(seen))
