"""The models of a run: the held one, the retrained twin and the unlearned ones, each a stage whose folder holds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from ..common.errors import UserError
from ..common.fields import plain
from ..common.processes import device, from_first_rank, machine
from ..common.progress import within
from ..common.seeds import derive
from ..common.types import BASE, HELD, TWIN
from ..method import History, Trainer
from ..models.precision import config_of, together
from ..models.subject import Subject
from ..texts.memories import memories_hash, shown_by_turns
from ..texts.questions import answers_follow
from ..training.engine import deepspeed_config, holds_low
from . import builders
from .inputs import Inputs
from .model import Model
from .store import Stage
from .work import of_injection, of_method


class Models(Inputs):
    """The models that a suite asks for, made when first needed."""

    @cached_property
    def precision(self) -> str:
        """What models are trained in, bf16 or fp32. With `auto`: as this store's held model was, else whichever is faster here."""
        s, seed = self.suite, self.suite.seeds[0]
        chosen = together(s.precision, config_of(self.base), s.injection.batch * s.row)
        if s.held:
            return chosen
        other = "fp32" if chosen == "bf16" else "bf16"
        there = [self.store.done(self._injection("held", "", seed, True, p)) for p in (chosen, other)]
        return other if s.precision == "auto" and from_first_rank(there == [False, True]) else chosen

    @property
    def where(self) -> str:
        """What the time of a piece of work depends on, beside the work."""
        return f"{self.base.hash}, {self.precision}, {machine()}"

    @property
    def device_kind(self) -> str:
        """The kind of device that stages are made on: cpu or cuda."""
        return device().type

    @property
    def off_cpu(self) -> dict[str, str]:
        """Part of the keys of what is asked of a model: its device, if that is no CPU. A key that was made on a CPU says nothing of it."""
        return {} if self.device_kind == "cpu" else {"device": self.device_kind}

    def held(self, seed: int) -> Stage:
        return self.once(("held", seed), lambda: self._injection("held", f"inject, seed {seed}", seed, forget=True))

    def twin(self, seed: int) -> Stage:
        return self.once(("twin", seed), lambda: self._injection("twin", f"retrained twin, seed {seed}", seed, forget=False))

    def model(self, name: str, seed: int) -> Model:
        """A model of a seed by its name: `base`, `none` (the held model), `twin`, or a method's."""
        return self.once(("model", name, seed), lambda: self._model(name, seed))

    def _model(self, name: str, seed: int) -> Model:
        if name == BASE:
            return Model(BASE, seed, self.base.hash, place=self.base.folder)
        if name in self.places:
            subject = self.opened(self.places[name])
            return Model(name, seed, subject.hash, place=subject.folder, memories=self.encoded(seed))
        stage = self.twin(seed) if name == TWIN else self.held(seed) if name == HELD else self._method(name, seed)
        return Model(name, seed, stage.key, stage, memories=self.encoded(seed))

    def key(self, name: str, seed: int) -> str:
        """What stands for a model in the keys of others; nothing for a twin that is not there."""
        return "" if name == TWIN and not self.twins else self.model(name, seed).key

    def subject(self, model: Model) -> Subject:
        """What to ask; its files are checked, and made again if they were removed."""
        if model.stage:
            return Subject(self.store.ensure(model.stage))
        return self.base if model.name == BASE else Subject(cast(Path, model.place))

    @contextmanager
    def loaded(self, model: Model) -> Iterator[Subject]:
        """A model for one stage; its memory is given back afterwards."""
        subject = self.subject(model)
        try:
            yield subject
        finally:
            subject.release()

    def trainer(self, label: str, seed: int, scratch: Path) -> Trainer:
        """A trainer for one stage: it reports to the display and saves its resume state in `scratch`."""
        # One seed for injection, twin and retraining: the order of the stream is all that may differ between them.
        return Trainer(self.precision, self.suite.deepspeed, derive(seed, "train"), scratch, within(label, self.progress))

    def _texts(self, seed: int) -> dict[str, Any]:
        """Part of a key: all that decides which texts a model meets in training."""
        s = self.suite
        return {
            "tokenizer": self.base.encoding,
            "corpus": self.corpus.key,
            "memories": memories_hash(self.memories),
            "row": s.row,
            "seed": seed,
            "per_role": s.per_role,
            "roles": s.roles,
            **self.since(seed),
        }

    def since(self, seed: int) -> dict[str, str]:
        """Part of a key, where texts once were other ones by an earlier rule; other keys are what they were."""
        follow = self.once("answers", lambda: answers_follow(self.memories, self.base.tokenizer))
        text = self.text(seed).key
        return {
            **({"shown": "by turns"} if shown_by_turns(self.encoded(seed)) else {}),
            **({"answers": "after their prompts"} if follow else {}),
            **({"text": text} if text != self.corpus.key else {}),  # without what methods may not see
        }

    @cached_property
    def rounding(self) -> dict[str, str]:
        """Part of a key, where weights are in bf16 while others train: an earlier version rounded those that are not trained."""
        low = holds_low(deepspeed_config(self.suite.deepspeed, self.precision, 1.0, 1))
        return {"not trained": "in fp32"} if low else {}

    def _injection(self, kind: str, label: str, seed: int, forget: bool, precision: str = "") -> Stage:
        s = self.suite
        if s.held:
            raise UserError(f"Suite {s.name} injects nothing (held={s.held}), and this needs a model that was made here.")
        inputs = {
            "base": self.base.hash,
            **self._texts(seed),
            "injection": plain(s.injection),
            "precision": precision or self.precision,
            "device": self.device_kind,
            "deepspeed": self.deepspeed,
        }

        def build(folder: Path) -> builders.Facts:
            history, trainer = History(self.base, self.stream(seed)), self.trainer(label, seed, self.store.scratch(stage))
            return builders.injected(folder, history=history, trainer=trainer, forget=forget)

        stage = Stage(kind, label, inputs, build, lambda: of_injection(self, self.where, seed), parallel=True)
        return stage

    def _method(self, method: str, seed: int) -> Stage:
        plugin, instance = self.methods[method]
        label = f"{method}, seed {seed}"
        held = self.model(HELD, seed)
        fields = {k: v for k, v in plain(instance).items() if v is not None}  # what is switched off changes no key
        inputs = {"held": held.key, "device": self.device_kind, "method": plugin.name, "source": plugin.source, "fields": fields}
        inputs |= plugin.read_by(instance) | self.rounding
        if self.suite.held:  # else the held model's key tells these
            inputs |= {**self._texts(seed), "precision": self.precision, "deepspeed": self.deepspeed}

        def build(folder: Path) -> builders.Facts:
            return builders.unlearned(
                folder,
                label=f"method {label}",
                method=instance,
                held=self.subject(held),
                base=self.base,
                data=self.data(seed, instance.needs_history),
                trainer=self.trainer(label, seed, self.store.scratch(stage)),
            )

        stage = Stage("method", label, inputs, build, lambda: of_method(self, self.where, method, seed), parallel=True)
        return stage
