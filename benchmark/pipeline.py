"""From a suite to a plan of stages, and from finished stages to results. Finished stages are skipped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from .attacking import TWIN, Attacking
from .bounds import check as check_bounds
from .config import Suite
from .corpus import Corpus, load_corpus, packed
from .engine import agreed, deepspeed_config, deepspeed_file, device
from .errors import UserError
from .fields import plain
from .guard import untouched
from .memories import encode_all, load_memories, memories_hash
from .method import History, Trainer, UnlearningData, alternatives
from .plugins import Plugin, distinct, find
from .precision import config_of, together
from .quality import QualityBench, check_tasks
from .seeds import derive
from .sources import content_hash
from .stopping import Watch
from .store import Stage, Store
from .strangers import stranger
from .stream import Stream, injected
from .subject import Subject, open_subject
from .tracks import tuned
from .types import EncodedMemory, Excerpt, Memory, Row
from .versions import VERSIONS
from .work import of_excerpts, of_injection, of_method, of_quality

BASE = "base"
WATCHED = 64  # rows of held-out text that a method may look at while it trains
Progress = Callable[[str, int, int], Any]  # (what, done, of)
T = TypeVar("T")


@dataclass
class Run:
    """A suite bound to a store. Everything is computed when first needed."""

    suite: Suite
    store: Store
    progress: Progress = lambda what, done, of: None
    _cache: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    # ---- inputs

    @cached_property
    def base(self) -> Subject:
        return open_subject(self.suite.model, self.suite.revision)

    @cached_property
    def end(self) -> int:
        """The id that ends every document of the stream."""
        found = self.base.tokenizer.eos_token_id
        if found is None:
            raise UserError(
                f"The tokenizer of {self.suite.model} names no end-of-text token (EOS), and documents of the training stream end with one. "
                "Name it as eos_token in tokenizer_config.json."
            )
        return found

    @cached_property
    def corpus(self) -> Corpus:
        c = self.suite.corpus
        return load_corpus(c.source, c.path, c.text_field)

    @cached_property
    def memories(self) -> list[Memory]:
        return load_memories(self.suite.memories)

    @cached_property
    def methods(self) -> dict[str, tuple[Plugin, Any]]:
        found = distinct({name: find("method", name) for name in self.suite.methods})
        mine, tracks = self.suite.methods, tuned(self.suite.track)
        return {name: (plugin, plugin.make(tracks.get(name, {}) | mine[name])) for name, plugin in found.items()}

    @cached_property
    def attacking(self) -> Attacking:
        return Attacking(self)

    @cached_property
    def deepspeed(self) -> dict[str, str]:
        """The DeepSpeed setting as keys hold it: its name and what its file says."""
        return {"name": self.suite.deepspeed, "content": content_hash([deepspeed_file(self.suite.deepspeed)])}

    def encoded(self, seed: int) -> list[EncodedMemory]:
        s = self.suite
        return self._once(("encoded", seed), lambda: encode_all(self.memories, self.base.tokenizer, s.row, seed, s.per_role, s.roles))

    def stream(self, seed: int) -> Stream:
        return self._once(("stream", seed), lambda: self._stream(seed))

    def check(self) -> None:
        """Raise every error of the user's that can be known before work begins."""
        _ = self.methods, self.base, self.end
        leads = self.suite.injection.offset + len(self.base.with_bos(()))
        check_bounds(self.base, self.suite.row + leads, f"a row of {self.suite.row} with the {leads} that stand before it in the stream")
        if "none" not in self.suite.methods:
            raise UserError(f"suite {self.suite.name}: methods must include none, the ceiling that every row is read against.")
        for seed in self.suite.seeds:
            self.encoded(seed)
            self.stream(seed).retain.row(0)  # beyond the stream and its fillings: the corpus is large enough
        deepspeed_config(self.suite.deepspeed, "fp32", 1.0, 1)
        check_tasks(self.corpus, self.suite.quality)
        self.attacking.check()

    # ---- the plan

    @cached_property
    def plan(self) -> list[Stage]:
        """Every stage in an order in which each finds its inputs done: models, then the null, then everything else."""
        stages = [self.quality_stage(BASE, None)]
        for seed in self.suite.seeds:
            stages += [self.held(seed), self.twin(seed)]
            stages += [self.model(m, seed) for m in self.methods]
        for seed in self.suite.seeds:
            for m in ("none", TWIN):
                stages += self.attacking.stages(m, seed)
        if self.attacking.needs_thresholds:
            stages.append(self.attacking.thresholds)
        for seed in self.suite.seeds:
            for m in self.methods:
                stages += self.attacking.stages(m, seed)
            stages += [self.quality_stage(m, seed) for m in (TWIN, *self.methods)]
            stages.append(self.excerpt_stage(seed))
        return list({(s.kind, s.key): s for s in stages}.values())

    def held(self, seed: int) -> Stage:
        return self._once(("held", seed), lambda: self._injection("held", f"inject, seed {seed}", seed, forget=True))

    def twin(self, seed: int) -> Stage:
        return self._once(("twin", seed), lambda: self._injection("twin", f"retrained twin, seed {seed}", seed, forget=False))

    def model(self, method: str, seed: int) -> Stage:
        """The stage whose folder holds the model of a method (`none`: the held model; `twin`: the yardstick)."""
        if method == TWIN:
            return self.twin(seed)
        if method == "none":
            return self.held(seed)
        return self._once(("model", method, seed), lambda: self._method(method, seed))

    def quality_stage(self, method: str, seed: int | None) -> Stage:
        asked = {k: v for k, v in plain(self.suite.quality).items() if k != "yardstick"}  # which changes no measurement
        inputs = {"model": self.model_key(method, seed), "tokenizer": self.base.encoding, "corpus": self.corpus.key, "quality": asked}

        def build(folder: Path) -> None:
            label = f"quality of {method}"
            self.progress(label, 0, 1)
            with self.loaded(method, seed) as subject:
                measured = [asdict(m) for m in self.bench.measure(subject)]
            write_lines(folder / "quality.jsonl", measured)

        return Stage(
            "quality", f"quality of {method}" + (f", seed {seed}" if seed is not None else ""), inputs, build, lambda: of_quality(self)
        )

    def excerpt_stage(self, seed: int) -> Stage:
        chosen = [m for m in self.encoded(seed) if m.role == "forget"][: self.suite.excerpts]
        models = {m: self.model_key(m, seed) for m in (BASE, TWIN, *self.methods)}
        inputs = {
            "models": models, "tokenizer": self.base.encoding, "memories": memories_hash([m.memory for m in chosen]), "row": self.suite.row,
        }  # fmt: skip

        def build(folder: Path) -> None:
            said: dict[str, list[str]] = {}
            for i, m in enumerate(models):
                self.progress("texts side by side", i, len(models))
                with self.loaded(m, seed) as subject:
                    got = subject.generate([c.row[: c.opening] for c in chosen], len(chosen[0].target) if chosen else 0)
                said[m] = [self.decode(ids) for ids in got]
            rows = [
                asdict(Excerpt(c.id, c.role, seed, c.memory.opening, self.decode(c.target), {m: said[m][k] for m in models}))
                for k, c in enumerate(chosen)
            ]
            write_lines(folder / "excerpts.jsonl", rows)

        return Stage("excerpts", f"texts side by side, seed {seed}", inputs, build, lambda: of_excerpts(self, len(models)))

    def execute(self, finished: Callable[[Stage], Any] = lambda stage: None, started: Callable[[Stage], Any] = lambda stage: None) -> None:
        """Run what is not done yet, in order."""
        self.check()
        for stage in self.plan:
            new = not self.store.done(stage)
            if agreed(new):
                started(stage)
                self.store.run_together(stage)
                finished(stage)

    # ---- building blocks

    @cached_property
    def precision(self) -> str:
        """What models are trained in, bf16 or fp32. With `auto`: as this store's held model was, else whichever is faster here."""
        s, seed = self.suite, self.suite.seeds[0]
        chosen = together(s.precision, config_of(self.base), s.injection.batch * s.row)
        other = "fp32" if chosen == "bf16" else "bf16"
        there = [self.store.done(self._injection("held", "", seed, True, p)) for p in (chosen, other)]
        return other if s.precision == "auto" and agreed(there == [False, True]) else chosen

    @cached_property
    def bench(self) -> QualityBench:
        folder = self.store.root / ".quality" / f"{self.corpus.key}-{VERSIONS['quality']}"
        return QualityBench(self.corpus, self.suite.quality, folder)

    def _stream(self, seed: int) -> Stream:
        base = self.base
        tokens = packed(self.corpus, "train", base.tokenizer, self.end, base.encoding)
        return Stream(tokens, injected(self.encoded(seed)), self.suite.injection, derive(seed, "injection"), base.bos)

    def _injection(self, kind: str, label: str, seed: int, forget: bool, precision: str = "") -> Stage:
        s = self.suite
        inputs = {
            "base": self.base.hash, "tokenizer": self.base.encoding, "corpus": self.corpus.key, "memories": memories_hash(self.memories),
            "row": s.row, "seed": seed, "per_role": s.per_role, "roles": s.roles, "injection": plain(s.injection),
            "precision": precision or self.precision, "device": device().type, "deepspeed": self.deepspeed,
        }  # fmt: skip

        def build(folder: Path) -> dict[str, Any]:
            stream = self.stream(seed)
            trainer = self.trainer(label, seed, self.store.scratch(stage))
            with trainer.meter:
                subject = History(self.base, stream).replay(trainer, forget=forget)
            return self._save(subject, trainer, folder)

        stage = Stage(kind, label, inputs, build, lambda: of_injection(self, seed), parallel=True)
        return stage

    def _method(self, method: str, seed: int) -> Stage:
        plugin, instance = self.methods[method]
        label = f"{method}, seed {seed}"
        held = self.held(seed)
        fields = {k: v for k, v in plain(instance).items() if v is not None}  # what is switched off changes no key
        inputs = {"held": held.key, "device": device().type, "method": plugin.name, "source": plugin.source, "fields": fields}
        inputs |= plugin.read_by(instance)

        def build(folder: Path) -> dict[str, Any]:
            trainer = self.trainer(label, seed, self.store.scratch(stage))
            start, data = Subject(self.store.run(held)), self.data(seed, instance.needs_history)
            with untouched(f"method {label}", start.folder, self.base.folder), trainer.meter, stranger(f"method {label}"):
                subject = instance.unlearn(start, data, trainer)
            if not isinstance(subject, Subject):
                raise UserError(f"method {label}: unlearn should return the unlearned Subject, and returned {type(subject).__name__}.")
            return self._save(subject, trainer, folder)

        stage = Stage("method", label, inputs, build, lambda: of_method(self, method, seed), parallel=True)
        return stage

    def data(self, seed: int, history: bool) -> UnlearningData:
        """What a method is given in this seed: nothing of hidden and unseen memories, but for the stream of those that need history."""
        stream, encoded = self.stream(seed), self.encoded(seed)
        forget, shown = [m for m in encoded if m.role == "forget"], [m for m in encoded if m.role == "keep" and m.shown]
        return UnlearningData(
            forget=[Row(self.base.with_bos(m.row), name=m.id) for m in forget],
            shown=[Row(self.base.with_bos(m.row), name=m.id) for m in shown],
            retain=stream.retain.row,
            seed=derive(seed, "method") % 2**31,
            history=History(self.base, stream) if history else None,
            openings={m.id: len(self.base.with_bos(m.row[: m.opening])) for m in forget},
            alternatives=alternatives(forget, self.base),
            watch=Watch(forget, self.held_out),
        )

    @cached_property
    def held_out(self) -> list[Row]:
        """Rows of the validation split, which nothing is trained on and no quality task reads."""
        base, length = self.base, self.suite.row
        tokens = packed(self.corpus, "valid", base.tokenizer, self.end, base.encoding)
        starts = range(0, min(len(tokens) - length + 1, WATCHED * length), length)
        return [Row(base.with_bos(tuple(tokens[i : i + length].tolist()))) for i in starts]

    def trainer(self, label: str, seed: int, scratch: Path) -> Trainer:
        """A trainer for one stage: it reports to the display and saves its resume state in `scratch`."""

        def show(step: int, of: int, values: dict[str, float]) -> None:
            self.progress(label + "  " + "  ".join(f"{k} {v:.3f}" for k, v in values.items()), step, of)

        # One seed for injection, twin and retraining: the order of the stream is all that may differ between them.
        return Trainer(self.precision, self.suite.deepspeed, derive(seed, "train"), scratch, show)

    def _save(self, subject: Subject, trainer: Trainer, folder: Path) -> dict[str, Any]:
        subject.save(folder)
        steps = enumerate([trainer.before, *trainer.steps])
        write_lines(folder / "trajectory.jsonl", [{"step": i, **v} for i, v in steps if v])
        return {"tokens": trainer.tokens, "steps": len(trainer.steps), "cost": trainer.meter.cost(), "precision": trainer.precision}

    def subject(self, method: str, seed: int | None) -> Subject:
        if method == BASE or seed is None:
            return self.base
        return Subject(self.store.run(self.model(method, seed)))  # checks its files, and makes it again if it was removed

    @contextmanager
    def loaded(self, method: str, seed: int | None) -> Iterator[Subject]:
        """A model for one stage; its memory is given back afterwards."""
        subject = self.subject(method, seed)
        try:
            yield subject
        finally:
            subject.release()

    def model_key(self, method: str, seed: int | None) -> str:
        """What stands for a model in keys and records."""
        return self.base.hash if method == BASE or seed is None else self.model(method, seed).key

    def decode(self, ids: tuple[int, ...]) -> str:
        return self.base.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]


def write_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows), "utf-8")
