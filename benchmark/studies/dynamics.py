"""How memorisation spreads over model sizes, contexts and continuations, and what is seen at the boundary of what is memorised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ...leaderboard.study_results import Found
from ..common.errors import UserError
from ..common.limits import Counts
from ..common.types import HELD, EncodedMemory
from ..models.subject import Subject
from ..running.plan import Run
from ..running.store import Stage
from ..study import Lab, Study
from ._continuations import DOSES, class_of, continuations, dosed, inside, same_tokens
from ._geometry import geometry
from ._ngrams import Ngrams
from .pages.dynamics import page

USUAL = 32  # tokens of context, and of the continuation by which classes are told


@dataclass(frozen=True)
class Dynamics(Study):
    """Memories are injected from 1 to 24 times into models of several sizes and checkpoints. Each model continues them greedily from one
    boundary, given 8 to 64 tokens of context; the memorisation score is the share of places with the true token. Beside it stands the same
    of texts that were never injected, since the score rewards chance. The same memories make the matrices of transition between models.
    Around the boundary (the context, then what the model says) entropies and the frequencies of 1- and 2-grams in the training text are
    read for memorised, half-memorised and unmemorised texts, and the geometry of last-layer states over decoding steps.
    """

    sizes: tuple[str, ...] = ("pocket-small", "pocket")  # from small to large; name@revision names a revision of the hub
    checkpoints: tuple[str, ...] = ("pocket/step256", "pocket/step1050")  # earlier ones of the last size, from early to late
    contexts: Counts = (8, 16, 32, 64)
    continuations: Counts = (16, 32, 48, 64)
    occurrences: Counts = DOSES

    question: ClassVar[str] = "How does memorisation spread with size, context and continuation, and what happens at its boundary?"
    paper: ClassVar[str] = "Chen, Han and Miyao 2024"
    address: ClassVar[str] = "https://arxiv.org/abs/2405.11577"
    forms: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pocket": {},
        "fast": {"sizes": ["pocket-small"], "checkpoints": [], "per_role": 2, "seeds": [0], "occurrences": [2], "precision": "fp32"},
    }

    def stages(self, lab: Lab) -> Iterable[Stage]:
        if USUAL not in self.contexts or USUAL not in self.continuations:
            raise UserError(f"contexts and continuations: expected {USUAL} among both, by which classes are told.")
        same_tokens(list(self._runs(lab).values()))
        for run in self._runs(lab).values():
            for seed in self.seeds:
                yield from (run.held(seed), self._stage(lab, run, seed))

    def found(self, lab: Lab) -> Found:
        rows = [
            {"model": name, "seed": seed, **row}
            for name, run in self._runs(lab).items()
            for seed in self.seeds
            for row in lab.rows(self._stage(lab, run, seed))
        ]
        return page(pd.DataFrame(rows), self.sizes, (*self.checkpoints, *self.sizes[-1:]), USUAL)

    def _runs(self, lab: Lab) -> dict[str, Run]:
        return {name: dosed(lab, name, self.occurrences) for name in (*self.sizes, *self.checkpoints)}

    def _stage(self, lab: Lab, run: Run, seed: int) -> Stage:
        name = run.suite.model + (f"@{run.suite.revision}" if run.suite.revision else "")
        inputs = {"model": run.held(seed).key, "seed": seed, "contexts": self.contexts, "continuations": self.continuations}

        def rows() -> Iterator[dict[str, Any]]:
            memories = [m for m in run.encoded(seed) if m.role in ("forget", "unseen")]
            ngrams = Ngrams(run.stream(seed).tokens)
            with run.loaded(run.model(HELD, seed)) as subject:
                yield from self._read(subject, memories, run.stream(seed).counts, ngrams)

        return lab.measurement(f"dynamics of {name}, seed {seed}", inputs, rows)

    def _read(self, subject: Subject, memories: list[EncodedMemory], counts: Mapping[str, int], ngrams: Ngrams) -> Iterator[dict[str, Any]]:
        """Rows of three kinds: a score for each memory, context and continuation; the boundary of each memory; the geometry of classes."""
        boundary, longest = max(self.contexts), max(self.continuations)
        for context in self.contexts:
            made = continuations(subject, memories, boundary, context, longest)
            for c in made:
                cell = {
                    "row": "score",
                    "memory": c.memory.id,
                    "role": c.memory.role,
                    "count": counts.get(c.memory.id, 0),
                    "context": context,
                }
                yield from ({**cell, "continuation": n, "score": c.score(n)} for n in self.continuations)
            if context != USUAL:
                continue
            classes = [class_of(c.score(USUAL)) for c in made]
            said = [c.prompt + c.said[:USUAL] for c in made]  # as in the paper: generated behind the boundary, which the truth is not
            _, entropies = inside(subject, said, context + USUAL - 1)
            for c, ids, kind, entropy in zip(made, said, classes, entropies, strict=True):
                of = {"row": "boundary", "memory": c.memory.id, "role": c.memory.role, "class": kind, "entropy": entropy.tolist()}
                yield of | {f"{n}-gram": np.log1p(ngrams.counts(ids, n)[1:]).tolist() for n in (1, 2)}
            states, _ = inside(subject, [c.prompt + c.said for c in made], longest)
            yield from ({"row": "geometry", **line} for line in geometry(states, classes))
