"""Can it be foretold, token by token, whether a model says what it memorised?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ...leaderboard.study_results import Found
from ..common.errors import UserError
from ..common.limits import Count, Counts
from ..common.seeds import derive
from ..common.types import HELD
from ..models.subject import Subject
from ..running.plan import Run
from ..running.store import Stage
from ..study import Lab, Study
from ._continuations import DOSES, dosed, inside, same_tokens
from ._predicting import Sequences, alignment, by_entropy, calibration, gathered, judged, logistic, split, trained
from .pages.predictor import page


@dataclass(frozen=True)
class PredictMemorisation(Study):
    """Memories that were injected from 0 to 24 times are continued greedily from several boundaries. A small Transformer is given the
    last-layer state and the entropy from which each token was said, and tells of each token whether it is the true one. It is trained on
    three fifths of the memories, its epoch is chosen on one fifth, and the last fifth, which it never met, judges it: by tokens and by
    whole continuations, beside the majority of the training labels and a logistic regression on entropy alone, and by calibration. Then
    it judges, as it is, what unlearned models say of these memories, and what a model of another size does, whose states a linear map takes
    over that was fitted on ordinary text without any label.
    """

    other: str = "pocket-small"  # the model of another size; name@revision names a revision of the hub
    methods: tuple[str, ...] = ("npo", "grad_diff")
    lengths: Counts = (16, 64)  # of continuations, for each of which a predictor is trained
    boundaries: Counts = (32, 48, 64, 80, 96)
    context: Count = 32
    occurrences: Counts = DOSES
    epochs: Count = 30

    question: ClassVar[str] = "Can it be foretold from last-layer states and entropy which tokens a model says from memory?"
    paper: ClassVar[str] = "Chen, Han and Miyao 2024"
    address: ClassVar[str] = "https://arxiv.org/abs/2405.11577"
    forms: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pocket": {},
        "fast": {
            "model": "pocket-small", "per_role": 2, "seeds": [0], "occurrences": [2], "epochs": 2, "boundaries": [32, 64],
            "methods": ["npo"], "precision": "fp32",
        },
    }  # fmt: skip

    def stages(self, lab: Lab) -> Iterable[Stage]:
        if min(self.boundaries) < self.context:
            raise UserError(f"boundaries={list(self.boundaries)}: expected at least the {self.context} tokens of context before each.")
        run, other = self._runs(lab)
        same_tokens([run, other])
        for seed in self.seeds:
            yield from (run.held(seed), other.held(seed))
            yield from (stage for name in self.methods if (stage := run.model(name, seed).stage))
            yield self._stage(lab, seed)

    def found(self, lab: Lab) -> Found:
        rows = [{"seed": seed, **row} for seed in self.seeds for row in lab.rows(self._stage(lab, seed))]
        return page(pd.DataFrame(rows), self.lengths)

    def _runs(self, lab: Lab) -> tuple[Run, Run]:
        methods = {name: {} for name in self.methods}
        return dosed(lab, self.model, self.occurrences, methods), dosed(lab, self.other, self.occurrences)

    def _stage(self, lab: Lab, seed: int) -> Stage:
        run, other = self._runs(lab)
        inputs = {"held": run.held(seed).key, "other": other.held(seed).key, "methods": {n: run.model(n, seed).key for n in self.methods}}
        inputs["other name"] = self.other  # which rows hold
        inputs |= {"lengths": self.lengths, "boundaries": self.boundaries, "context": self.context, "epochs": self.epochs, "seed": seed}
        return lab.measurement(f"predictor, seed {seed}", inputs, lambda: self._measured(run, other, seed))

    def _measured(self, run: Run, other: Run, seed: int) -> Iterator[dict[str, Any]]:
        """A row for each length, test set and predictor, and rows of calibration."""
        train, choose, test = split([m.id for m in run.encoded(seed)], seed)
        with run.loaded(run.model(HELD, seed)) as subject:
            mine, ordinary = self._gathered(subject, run, seed), _ordinary(subject, run)
        sets = {"the held model": mine.of(test)}
        for name in self.methods:
            with run.loaded(run.model(name, seed)) as subject:
                sets[f"unlearned by {name}"] = self._gathered(subject, run, seed).of(test)
        with other.loaded(other.model(HELD, seed)) as subject:
            theirs = self._gathered(subject, other, seed).of(test)
            sets[f"another size ({other.suite.model})"] = theirs.moved(alignment(_ordinary(subject, run), ordinary))
        for length in self.lengths:
            cut = [mine.of(names).first(length) for names in (train, choose)]
            made = trained(cut[0], cut[1], derive(seed, "predictor", length), self.epochs)
            w, majority = logistic(cut[0]), float(cut[0].labels.mean())
            for where, whole in sets.items():
                s = whole.first(length)
                said = {
                    "Transformer": made.probability(s),
                    "entropy alone": by_entropy(w, s),
                    "majority": np.full(s.labels.shape, majority),
                }
                for name, p in said.items():
                    yield _row(length, where, name, p, s)
                    yield from ({"row": "bin", "length": length, "where": where, "predictor": name, **b} for b in calibration(p, s.labels))

    def _gathered(self, subject: Subject, run: Run, seed: int) -> Sequences:
        return gathered(subject, run.encoded(seed), self.boundaries, self.context, max(self.lengths))


def _row(length: int, where: str, predictor: str, p: np.ndarray, s: Sequences) -> dict[str, Any]:
    about = {"row": "accuracy", "length": length, "where": where, "predictor": predictor, "sequences": len(s.labels)}
    return about | {"memorised": float(s.labels.mean()), "whole": float(s.labels.all(1).mean())} | judged(p, s.labels)


def _ordinary(subject: Subject, run: Run) -> np.ndarray:
    """States [N, H] of held-out text, the same tokens for every model of a tokenizer."""
    rows: Sequence[tuple[int, ...]] = [r.ids if subject.bos is None else r.ids[1:] for r in run.held_out]
    states, _ = inside(subject, rows, len(rows[0]) - 1)
    return states.reshape(-1, states.shape[-1])
