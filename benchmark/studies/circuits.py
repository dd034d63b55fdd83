"""Circuits of verbatim memorisation, and what unlearning does to them (Lasy et al. 2025, arXiv 2506.21588)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from ...leaderboard.study_results import Found
from ..common.errors import UserError
from ..common.limits import SOME, Count, Share
from ..common.types import HELD, TWIN
from ..running.plan import Run
from ..running.store import Stage
from ..study import Lab, Study
from ._circuit_rows import behaviour_rows, model_rows, pair_rows, score_rows, tested_rows
from ._divergence import divergences
from ._graph import Graph
from .pages.circuits import page


@dataclass(frozen=True)
class Circuits(Study):
    """A memorised context is shortened from the right until the model leaves the text: the divergence. Two contrastive tasks begin there.
    Maintenance: context and true token (clean) against context and the model's own token (corrupt). Initiation: the context, where the
    model leaves the text (clean), against the nearest unmemorised sample after which it says the memorised token (corrupt). The metric is
    the logit of what is said after the clean prompt minus that of what is said after the corrupt one. Edges between
    embeddings, heads (queries, keys and values apart), MLPs and logits are scored by integrated gradients on one third of the memories,
    the smallest circuit with enough faithfulness is chosen on the second, and everything is tested on the last. Denoising: only the
    circuit carries the clean run. Noising: only the circuit carries the corrupt run. What denoising does in maintenance (induce memorised
    text) noising does in initiation, and the reverse (prevent it). The same pairs and circuits are then run on the retrained twin and
    on unlearned models.
    """

    prompt: Count = 50  # tokens of a memorised context
    continuation: Count = 50  # tokens that it must bring back
    drop: Share = 0.3  # of BLEU-4, beyond which the model has left the text
    shortest: Count = 1  # tokens of a shortened context
    samples: Count = 256  # rows of ordinary text in which unmemorised samples are looked for
    steps: Count = 5  # of integrated gradients
    enough: Share = 0.85  # faithfulness of a circuit
    draws: Count = 10  # random circuits of the same size
    checked: Count = 256  # edges that are also patched alone
    checked_pairs: Count = 16  # pairs on which they are
    unlearned: Annotated[tuple[str, ...], SOME] = ("gradient_ascent", "grad_diff", "npo")
    track: str = "pocket-rule-1"  # whose tuned fields they have: those that make prompts fail

    question: ClassVar[str] = "Which edges start and continue memorised text, and does unlearning remove them?"
    paper: ClassVar[str] = "Lasy et al. 2025"
    address: ClassVar[str] = "https://arxiv.org/abs/2506.21588"
    forms: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pocket": {},
        "fast": {
            "model": "pocket-small", "per_role": 8, "seeds": (0,), "samples": 4, "steps": 2, "draws": 2, "checked": 8, "checked_pairs": 2,
            "unlearned": ("gradient_ascent",),
        },
    }  # fmt: skip

    def stages(self, lab: Lab) -> Iterable[Stage]:
        run = self.run(lab)
        for seed in self.seeds:
            yield run.held(seed)
            yield self.examples(lab, run, seed)
            yield self.scored(lab, run, seed)
            yield self.tested(lab, run, seed)
            for name in self.models:
                if name != HELD and (stage := run.model(name, seed).stage):
                    yield stage
                yield self.other(lab, run, seed, name)

    @property
    def models(self) -> tuple[str, ...]:
        """On which the held model's circuits are run: itself, the twin, and what the methods made."""
        return (HELD, TWIN, *self.unlearned)

    def run(self, lab: Lab) -> Run:
        if self.prompt + self.continuation > self.row:
            raise UserError(
                f"prompt={self.prompt} and continuation={self.continuation} need row={self.prompt + self.continuation} or more."
            )
        return lab.run({name: {} for name in self.unlearned}, track=self.track)

    def examples(self, lab: Lab, run: Run, seed: int) -> Stage:
        """Rows `memory` and `pair`, of all memories that the held model was taught."""
        asked = {k: getattr(self, k) for k in ("prompt", "continuation", "drop", "shortest", "samples", "row", "per_role")}
        inputs = {"model": run.held(seed).key, "corpus": run.corpus.key, **asked}

        def rows() -> Iterable[Mapping[str, Any]]:
            with run.loaded(run.model(HELD, seed)) as subject:
                taught = [m for m in run.encoded(seed) if m.role != "unseen"]
                found = divergences(subject, taught, self.prompt, self.continuation, self.drop, self.shortest)
                leads, ordinary = len(subject.with_bos(())), run.stream(seed).retain.row
                pool = [r.ids[leads:] for r in (*run.held_out, *(ordinary(k) for k in range(self.samples)))]
                yield from pair_rows(subject, taught, found, pool, seed)

        return lab.measurement(f"divergence and pairs, seed {seed}", inputs, rows)

    def scored(self, lab: Lab, run: Run, seed: int) -> Stage:
        """Rows `scores` and `exact`."""
        examples = self.examples(lab, run, seed)
        inputs = {"examples": examples.key, "steps": self.steps, "checked": self.checked, "checked_pairs": self.checked_pairs}

        def rows() -> Iterable[Mapping[str, Any]]:
            with run.loaded(run.model(HELD, seed)) as subject:
                yield from score_rows(Graph(subject), lab.rows(examples), self.steps, self.checked, self.checked_pairs, seed)

        return lab.measurement(f"edges scored, seed {seed}", inputs, rows)

    def tested(self, lab: Lab, run: Run, seed: int) -> Stage:
        """Rows `size`, `chosen`, `test` and `domain`."""
        examples, scored = self.examples(lab, run, seed), self.scored(lab, run, seed)
        inputs = {"scores": scored.key, "enough": self.enough, "draws": self.draws}

        def rows() -> Iterable[Mapping[str, Any]]:
            with run.loaded(run.model(HELD, seed)) as subject:
                yield from tested_rows(Graph(subject), lab.rows(examples), lab.rows(scored), self.enough, self.draws, seed)

        return lab.measurement(f"circuits tested, seed {seed}", inputs, rows)

    def other(self, lab: Lab, run: Run, seed: int, name: str) -> Stage:
        """Rows `model` and `behaviour` of one model."""
        model, tested = run.model(name, seed), self.tested(lab, run, seed)
        inputs = {"model": model.key, "tested": tested.key, "precision": self.precision}

        def rows() -> Iterable[Mapping[str, Any]]:
            with ExitStack() as opened:
                held = opened.enter_context(run.loaded(run.model(HELD, seed)))
                subject = held if name == HELD else opened.enter_context(run.loaded(model))
                examples, scored = (lab.rows(s) for s in (self.examples(lab, run, seed), self.scored(lab, run, seed)))
                yield from behaviour_rows(subject, [m for m in run.encoded(seed) if m.role != "unseen"], self.precision)
                graph = Graph(held)
                mine = graph if subject is held else Graph(subject)
                yield from model_rows(mine, graph, examples, scored, lab.rows(tested), self.steps)

        return lab.measurement(f"circuits on {model.label}", inputs, rows)

    def found(self, lab: Lab) -> Found:
        run, rows = self.run(lab), []
        for seed in self.seeds:
            for stage in (self.examples(lab, run, seed), self.scored(lab, run, seed), self.tested(lab, run, seed)):
                rows += [{"seed": seed, **row} for row in lab.rows(stage)]
            for name in self.models:
                rows += [{"seed": seed, "model": name, **row} for row in lab.rows(self.other(lab, run, seed, name))]
        return page(rows, self.enough)
