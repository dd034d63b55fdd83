"""Runs training for methods and attacks: precision, DeepSpeed configuration, seed, resume folder and progress in one place."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..common.progress import Progress, silent
from ..common.seeds import derive
from ..common.types import Batch
from ..models.subject import Subject
from .batches import Loss
from .loop import Evaluation, train
from .lora import Lora, adapt, merged
from .metering import Meter
from .recipe import Recipe
from .resume import EVERY


@dataclass
class Trainer:
    """Holds precision, DeepSpeed configuration, seed, resume folder and progress; counts what training consumed."""

    precision: str = "auto"
    deepspeed: str = "zero0"
    seed: int = 0
    resume: Path | None = None
    progress: Progress = silent
    tokens: int = 0  # consumed so far, over all runs
    steps: list[dict[str, float]] = field(default_factory=list)
    before: dict[str, float] = field(default_factory=dict)  # what was measured before the first step
    fits: int = 0  # how many have begun: each resumes from a folder of its own
    save_every: float = EVERY  # seconds between two savings to `resume`
    meter: Meter = field(default_factory=Meter)  # measures what training takes, if it was entered

    def fit(
        self,
        start: Subject,
        batch_at: Callable[[int], Batch],
        loss: Loss,
        recipe: Recipe,
        state: Any = None,
        stops: Collection[int] = (),
        at_stop: Callable[[int, Subject], Evaluation | None] | None = None,
        lora: Lora | None = None,
    ) -> Subject:
        """Train a copy of `start` and return it; `start` is not changed.

        After each number of steps in `stops`, `at_stop` gets the model as it is then (a copy of its weights), on every rank;
        it may return an `Evaluation`, which must be the same on all, to add to the history and to end the training. With `lora`
        only adapters are trained; the models that come out have them merged into their weights.
        """
        recipe = replace(recipe, precision=self.precision, deepspeed=self.deepspeed, seed=derive(self.seed, "train") % 2**31)

        resume = self.resume / f"fit{self.fits}" if self.resume else None
        self.fits += 1

        model = start.fresh()
        if lora:
            adapt(model, lora, derive(self.seed, "lora") % 2**31)

        def subject_of(weights: dict[str, Tensor]) -> Subject:
            return start.with_state(merged(model, weights) if lora else weights)

        def stop(step: int, weights: dict[str, Tensor]) -> Evaluation | None:
            return at_stop(step, subject_of(weights)) if at_stop else None

        done = train(
            model, batch_at, loss, recipe, resume=resume, save_every=self.save_every, progress=self.progress,
            state=state, stops=stops, at_stop=stop, meter=self.meter,
        )  # fmt: skip
        self.tokens += done.tokens
        self.steps += done.steps
        return subject_of(done.state)
