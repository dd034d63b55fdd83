"""What a run binds before anything is done: the suite and the store, the base model, the corpus, the memories and the methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from ..common.errors import UserError
from ..common.plugins import Plugin, distinct, find
from ..common.progress import Progress, silent
from ..common.seeds import derive
from ..common.sources import content_hash
from ..common.types import BASE, HELD, TWIN, EncodedMemory, Memory, OperatingPoint, Row
from ..common.versions import VERSIONS
from ..method import History, UnlearningData, alternatives
from ..models.subject import Subject, open_subject
from ..quality.harness import QualityBench
from ..reading.early_stopping import Monitor
from ..suites.config import Suite
from ..suites.space import declared_strength
from ..suites.tracks import tuned
from ..texts.corpus import Corpus, apart_from, load_corpus, packed
from ..texts.memories import encode_all, load_aside, load_memories
from ..texts.questions import rendered, unreadable
from ..texts.sets.named import is_named
from ..texts.stream import Injected, Stream, injected
from ..texts.usable import encodable, usable
from ..training.engine import deepspeed_file
from .store import Store

HELD_OUT_ROWS = 64  # rows of held-out text on which a model may be evaluated while it trains
T = TypeVar("T")


@dataclass
class Inputs:
    """A suite bound to a store. Everything is computed when first needed, and once."""

    suite: Suite
    store: Store
    progress: Progress = silent
    _cache: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def base(self) -> Subject:
        """The model that was never taught. Where nothing is injected, whose tokenizer and judgement stand for it."""
        s = self.suite
        return self.opened(s.retrained or s.held) if s.held else open_subject(s.model, s.revision)

    def opened(self, place: str) -> Subject:
        """A model that was made elsewhere, by its place: a folder, or a hub id with @REVISION where one is meant."""
        return self.once(("opened", place), lambda: _opened(place))

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

    @property
    def bases(self) -> tuple[str, ...]:
        """The base model by its name, where there is one."""
        return () if self.suite.held else (BASE,)

    @property
    def twins(self) -> tuple[str, ...]:
        """The retrained twin by its name, where there is one."""
        return (TWIN,) if self.suite.retrained or not self.suite.held else ()

    @property
    def nulls(self) -> tuple[str, ...]:
        """Models whose answers about memories that they never met make the null."""
        return (HELD, *self.twins)

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows of the table: methods, then models that were unlearned elsewhere."""
        return (*self.methods, *self.suite.given)

    @property
    def places(self) -> dict[str, str]:
        """Name -> place, of models that were made elsewhere; empty where the suite injects."""
        s = self.suite
        return {name: place for name, place in {HELD: s.held, TWIN: s.retrained, **s.given}.items() if place}

    @cached_property
    def corpus(self) -> Corpus:
        c = self.suite.corpus
        return load_corpus(c.source, c.path, c.text_field)

    @cached_property
    def unrendered(self) -> list[Memory]:
        """The memories as their file or set has them. What a model from elsewhere met, only their own roles can tell."""
        found = load_memories(self.suite.memories)
        if self.suite.held and (without := [m.id for m in found if not m.role]):
            raise UserError(
                f"{self.suite.memories}: {without[0]!r} and {len(without) - 1} more have no role. {self.suite.held} was trained elsewhere, "
                "and only you know on what: give every memory its role (forget, keep, or unseen if it was never trained on)."
            )
        return found

    @cached_property
    def memories(self) -> list[Memory]:
        """As the base model meets them: a chat memory is in its template, so that keys hold what is asked."""
        return self._usable[0]

    @property
    def left_out(self) -> dict[str, str]:
        """Of a forget set, the memories that this model and this row cannot be asked: id -> why. Of a file such are refused."""
        return self._usable[1] | (self._aside[1] if self.suite.published else {})

    @cached_property
    def _usable(self) -> tuple[list[Memory], dict[str, str]]:
        met = list(map(self._met, self.unrendered))
        return usable(met, self.base.tokenizer, self.suite.row) if is_named(self.suite.memories) else (met, {})

    @cached_property
    def unread(self) -> dict[str, str]:
        """Where measures of other papers are wanted: the questions of which some answer cannot be read whole, id -> why not."""
        asked = [*(m for seed in self.suite.seeds for m in self.encoded(seed)), *self.aside] if self.suite.published else []
        found = {m.id: unreadable(m, self.base.tokenizer, self.suite.row) for m in {m.id: m for m in asked}.values()}
        return {name: why for name, why in found.items() if why}

    def _met(self, m: Memory) -> Memory:
        return rendered(m, self.base.tokenizer) if m.chat else m

    @property
    def aside(self) -> list[EncodedMemory]:
        """What of the set only published measures ask."""
        return self._aside[0]

    @cached_property
    def _aside(self) -> tuple[list[EncodedMemory], dict[str, str]]:
        return encodable(list(map(self._met, load_aside(self.suite.memories))), self.base.tokenizer, self.suite.row)

    @cached_property
    def methods(self) -> dict[str, tuple[Plugin, Any]]:
        """Row -> the plug-in and its instance: a row for each method, or for each strength of one where the suite names some."""
        rows: dict[str, tuple[Plugin, Any]] = {}
        for name, (plugin, given) in self.ordinary.items():
            points = [p for p in self.points if p.method == name]
            rows |= {p.row: (plugin, _at(p, plugin, given)) for p in points} or {name: (plugin, plugin.make(given))}
        return rows

    @cached_property
    def points(self) -> list[OperatingPoint]:
        """The rows that are methods at several strengths. Strengths that come to one value are one row."""
        found = []
        for name, (plugin, given) in self.ordinary.items():
            if self.suite.strengths and (scale := declared_strength(plugin.cls)):
                ordinary = getattr(plugin.make(given), scale.field)
                values = {scale.at(s, ordinary): s for s in sorted(self.suite.strengths, key=lambda s: s == 1)}
                ordered = sorted((s, value) for value, s in values.items())
                found += [OperatingPoint(f"{name}@{s:g}", name, s, scale.field, value) for s, value in ordered]
        return found

    @cached_property
    def ordinary(self) -> dict[str, tuple[Plugin, dict[str, Any]]]:
        """Method -> the plug-in and the fields that the track and the suite give it."""
        found = distinct({name: find("method", name) for name in self.suite.methods})
        mine, tracks = self.suite.methods, tuned(self.suite.track)
        return {name: (plugin, tracks.get(name, {}) | mine[name]) for name, plugin in found.items()}

    @cached_property
    def deepspeed(self) -> dict[str, str]:
        """The DeepSpeed setting as keys hold it: its name and what its file says."""
        return {"name": self.suite.deepspeed, "content": content_hash([deepspeed_file(self.suite.deepspeed)])}

    def encoded(self, seed: int) -> list[EncodedMemory]:
        s = self.suite
        return self.once(("encoded", seed), lambda: encode_all(self.memories, self.base.tokenizer, s.row, seed, s.per_role, s.roles))

    def text(self, seed: int) -> Corpus:
        """The corpus without training documents that hold a memory which methods may not see in this seed."""
        return self.once(("text", seed), lambda: self._text(seed))

    def _text(self, seed: int) -> Corpus:
        hidden = {m.id for m in self.encoded(seed) if not m.shown}
        return apart_from(self.corpus, [m for m in self.unrendered if m.id in hidden])

    def stream(self, seed: int) -> Stream:
        return self.once(("stream", seed), lambda: self._stream(seed))

    def _stream(self, seed: int) -> Stream:
        base, memories = self.base, self.encoded(seed)
        tokens = packed(self.text(seed), "train", base.tokenizer, self.end, base.encoding)
        # Where nothing is injected, no memory is in the stream, and all of it is retain text.
        met = [Injected(m.id, "unseen", m.row) for m in memories] if self.suite.held else injected(memories)
        return Stream(tokens, met, self.suite.injection, derive(seed, "injection"), base.bos)

    @cached_property
    def held_out(self) -> list[Row]:
        """Rows of the validation split, which nothing is trained on and no quality task reads."""
        base, length = self.base, self.suite.row
        tokens = packed(self.corpus, "valid", base.tokenizer, self.end, base.encoding)
        starts = range(0, min(len(tokens) - length + 1, HELD_OUT_ROWS * length), length)
        return [Row(base.with_bos(tuple(tokens[i : i + length].tolist()))) for i in starts]

    def data(self, seed: int, history: bool) -> UnlearningData:
        """What a method is given in this seed: nothing of hidden and unseen memories, but for the stream of those that need history."""
        stream, encoded = self.stream(seed), self.encoded(seed)
        forget, shown = [m for m in encoded if m.role == "forget"], [m for m in encoded if m.role == "keep" and m.shown]
        return UnlearningData(
            forget=[Row(self.base.with_bos(m.row), name=m.id).after(m.context, len(m.row)) for m in forget],
            shown=[Row(self.base.with_bos(m.row), name=m.id).after(m.context, len(m.row)) for m in shown],
            retain=stream.retain.row,
            seed=derive(seed, "method") % 2**31,
            history=History(self.base, stream) if history else None,
            openings={m.id: len(self.base.with_bos(m.row[: m.opening])) for m in forget},
            alternatives=alternatives(forget, self.base),
            monitor=Monitor(forget, self.held_out),
        )

    @cached_property
    def bench(self) -> QualityBench:
        folder = self.store.root / ".quality" / f"{self.corpus.key}-{VERSIONS['quality']}"
        return QualityBench(self.corpus, self.suite.quality, folder)

    def decode(self, ids: tuple[int, ...]) -> str:
        return self.base.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]


def _opened(place: str) -> Subject:
    name, _, revision = place.rpartition("@")
    return open_subject(name, revision) if name and not Path(place).exists() else open_subject(place)


def _at(point: OperatingPoint, plugin: Plugin, fields: dict[str, Any]) -> Any:
    try:
        return plugin.make(fields | {point.field: point.value})
    except UserError as error:
        raise UserError(f"{point.method} at strength {point.strength:g}: {error}") from None
