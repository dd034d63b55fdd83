"""From a suite to a plan of stages, which are run in order. Finished stages are skipped."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ..common.errors import UserError
from ..common.fields import plain
from ..common.processes import from_first_rank
from ..common.progress import within
from ..common.types import HELD
from ..models.bounds import require_positions
from ..models.subject import Subject
from ..quality.harness import validate_tasks
from ..texts.memories import memories_hash
from ..texts.sets.named import is_named
from ..texts.usable import FEW
from ..training.engine import deepspeed_config
from . import builders
from .attacking import Attacking
from .model import Model
from .models import Models
from .store import Stage
from .who_is_asked import WhoIsAsked
from .work import of_excerpts, of_published, of_quality


class Run(Models):
    """A suite bound to a store, with the plan of all its stages."""

    @cached_property
    def who(self) -> WhoIsAsked:
        return WhoIsAsked(self)

    @cached_property
    def attacking(self) -> Attacking:
        return Attacking(self, self.who)

    @cached_property
    def plan(self) -> list[Stage]:
        """Every stage in an order in which each finds its inputs done: models, then the null, then everything else."""
        stages = [self.quality_stage(self.model(m, self.suite.seeds[0])) for m in self.bases]
        for seed in self.suite.seeds:
            stages += [stage for m in (*self.nulls, *self.rows) if (stage := self.model(m, seed).stage)]
        for seed in self.suite.seeds:
            for m in self.nulls:
                stages += self.attacking.stages(self.model(m, seed))
        if self.who.needs_thresholds:
            stages.append(self.attacking.thresholds)
        for seed in self.suite.seeds:
            for m in self.rows:
                stages += self.attacking.stages(self.model(m, seed))
            stages += [self.quality_stage(self.model(m, seed)) for m in (*self.twins, *self.rows)]
            stages += [self.published_stage(self.model(m, seed)) for m in (*self.twins, *self.rows) if self.suite.published]
            stages += [self.excerpt_stage(seed)] if self.suite.excerpts else []
        return list({(s.kind, s.key): s for s in stages}.values())

    def quality_stage(self, model: Model) -> Stage:
        asked = {k: v for k, v in plain(self.suite.quality).items() if k != "yardstick"}  # which changes no measurement
        inputs = {"model": model.key, "tokenizer": self.base.encoding, "corpus": self.corpus.key, "quality": asked, **self.off_cpu}

        def build(folder: Path) -> None:
            label = f"quality of {model.name}"
            self.progress(label, 0, 1)
            with self.loaded(model) as subject:
                builders.quality(folder, subject=subject, bench=self.bench)

        return Stage("quality", f"quality of {model.label}", inputs, build, lambda: of_quality(self, self.where))

    def published_stage(self, model: Model) -> Stage:
        every = [*((m, "") for m in model.memories), *((m, m.memory.domain) for m in self.aside)]
        asked = [(m, group) for m, group in every if m.id not in self.unread]
        inputs = {
            "model": model.key,
            "tokenizer": self.base.encoding,
            "memories": memories_hash([m.memory for m, _ in asked]),
            "roles": [m.role for m in model.memories if m.id not in self.unread],
            "row": self.suite.row,
            **self.off_cpu,
            **(self.since(model.seed) if self.suite.held else {}),
        }

        def build(folder: Path) -> None:
            with self.loaded(model) as subject:
                progress = within(f"published measures of {model.name}", self.progress)
                builders.published(
                    folder, subject=subject, asked=asked, length=self.suite.row, precision=self.suite.precision, progress=progress
                )

        return Stage("published", f"published measures of {model.label}", inputs, build, lambda: of_published(self.where, asked))

    def excerpt_stage(self, seed: int) -> Stage:
        chosen = [m for m in self.encoded(seed) if m.role == "forget"][: self.suite.excerpts]
        models = {m: self.model(m, seed) for m in (*self.bases, *self.twins, *self.rows)}
        inputs = {
            "models": {m: model.key for m, model in models.items()},
            "tokenizer": self.base.encoding,
            "memories": memories_hash([m.memory for m in chosen]),
            "row": self.suite.row,
            **self.off_cpu,
        }

        def build(folder: Path) -> None:
            opened = {name: partial(self.loaded, model) for name, model in models.items()}
            builders.side_by_side(folder, models=opened, memories=chosen, seed=seed, decode=self.decode, progress=self.progress)

        return Stage("excerpts", f"texts side by side, seed {seed}", inputs, build, lambda: of_excerpts(self.where, len(models)))

    def validate(self) -> None:
        """Raise every error of the user's that can be known before work begins."""
        _ = self.methods, self.base, self.end
        subjects = [self.base, *map(self._observed, self.places)]
        leads = self.suite.injection.offset + len(self.base.with_bos(()))
        for subject in subjects:
            require_positions(
                subject, self.suite.row + leads, f"a row of {self.suite.row} with the {leads} that stand before it in the stream"
            )
        if self.suite.held and (again := [name for name, (_, method) in self.methods.items() if method.needs_history]):
            raise UserError(
                f"{again[0]} trains again as the held model was trained, and nothing tells here how that was. Leave it out; a model "
                "that was retrained elsewhere is named by retrained=…."
            )
        if HELD not in self.suite.methods:
            raise UserError(f"suite {self.suite.name}: methods must include none, the ceiling that every row is read against.")
        for seed in self.suite.seeds:
            self.encoded(seed)
            self.stream(seed).retain.row(0)  # beyond the stream and its fillings: the corpus is large enough
        forget = {m.id for seed in self.suite.seeds for m in self.encoded(seed) if m.role == "forget"}
        if self.unread and (not is_named(self.suite.memories) or len(forget & self.unread.keys()) > FEW * len(forget)):
            first = next(iter(self.unread.values()))
            raise UserError(f"{first} (The first of {len(self.unread)}.) Mend it, or do without these measures: published=false.")
        deepspeed_config(self.suite.deepspeed, self.precision, 1.0, 1)
        validate_tasks(self.corpus, self.suite.quality)
        self.who.validate()

    def _observed(self, name: str) -> Subject:
        """A model that was made elsewhere; one with another tokenizer is refused, since its lengths in tokens would mean something else."""
        subject = self.opened(place := self.places[name])
        if subject.encoding != self.base.encoding:
            raise UserError(
                f"{name} ({place}) has another tokenizer than {self.suite.retrained or self.suite.held}, or other ids before and after "
                "texts; matched lengths in tokens cannot be compared."
            )
        return subject

    def execute(self, finished: Callable[[Stage], Any] = lambda stage: None, started: Callable[[Stage], Any] = lambda stage: None) -> None:
        """Run what is not done yet, in order."""
        self.validate()
        for stage in self.plan:
            new = not self.store.done(stage)
            if from_first_rank(new):
                started(stage)
                self.store.ensure_together(stage)
                finished(stage)
