"""Does a text that was unlearned come back when the prompt is changed a little? (Huang, Yang and Potts 2024, arXiv 2407.17817)"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...leaderboard.study_results import Found
from ..battery.answers import BestAnswer
from ..battery.shared_pass import ask_all
from ..common.errors import UserError
from ..common.limits import Count, CountOrZero
from ..common.lines import json_lines
from ..common.plugins import names
from ..common.types import HELD, TWIN
from ..reading.cache import load_cache
from ..running.plan import Run
from ..running.store import Stage
from ..study import Lab, Study
from ..suites.config import QualityConfig
from .pages.stress import page

YARDSTICK = "palimpsest_bits_per_byte"
SEMANTIC = ("word_substitution", "base_substitution", "embedding_neighbours", "paraphrase")
REFERENCES = (HELD, TWIN)


@dataclass(frozen=True)
class Stress(Study):
    """Each method, with the fields tuned on the track, unlearns the forget memories. Then the model is asked with the exact opening; with
    prompts that cover another span of the memory (windows from other starts, shorter and longer prefixes); and with openings in which
    words are replaced by similar ones, or that say the same in other words. The best of each kind of prompt counts. A best of many
    grows by itself, so what prompts add on the retrained twin, which never met the memories, is subtracted. Only memories are counted of
    which the held model says at least 50 tokens after the exact opening. Quality is bits per byte on held-out text, against that model.
    """

    methods: tuple[str, ...] = ()  # empty: all that are shipped
    track: str = "pocket-rule-1"  # whose tuned fields the methods have
    stride: Count = 16  # of the starts of windows
    least: CountOrZero = 50  # tokens that the held model must say of a memory
    documents: Count = 200  # on which quality is measured

    question: ClassVar[str] = "Does an unlearned text come back when the prompt is changed a little?"
    paper: ClassVar[str] = "Huang, Yang and Potts 2024, Demystifying Verbatim Memorization in Large Language Models"
    address: ClassVar[str] = "https://arxiv.org/abs/2407.17817"
    forms: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pocket": {},
        "fast": {
            "model": "pocket-small", "methods": ("gradient_ascent", "sparse_finetuning", "neuron_pruning"), "per_role": 4, "seeds": (0,),
            "stride": 64, "least": 0, "documents": 8,
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        if taken := [m for m in self.methods if m in (*REFERENCES, "retrain")]:
            raise UserError(f"stress.methods={list(self.methods)}: {taken[0]} is a reference that is always there; leave it out.")

    @property
    def asked(self) -> tuple[str, ...]:
        """The methods under test."""
        return self.methods or tuple(m for m in names("method") if m not in (*REFERENCES, "retrain"))

    def stages(self, lab: Lab) -> Iterator[Stage]:
        run = self.run(lab)
        for seed in self.seeds:
            for name in (*REFERENCES, *self.asked):
                model = run.model(name, seed)
                yield from (model.stage, run.quality_stage(model)) if model.stage else ()
                yield self.answers(lab, run, name, seed)

    def found(self, lab: Lab) -> Found:
        run = self.run(lab)
        models = [(name, seed) for seed in self.seeds for name in (*REFERENCES, *self.asked)]
        answers = [row for name, seed in models for row in lab.rows(self.answers(lab, run, name, seed))]
        quality = [{"method": name, "seed": seed, "bits": bits_per_byte(lab, run, name, seed)} for name, seed in models]
        return page(answers, quality, self.asked, self.least)

    def run(self, lab: Lab) -> Run:
        attacks: dict[str, dict[str, Any]] = {"prefix": {}, "longer_prefix": {}, "shifted_window": {"stride": self.stride}}
        quality = QualityConfig(tasks=(YARDSTICK,), documents=self.documents, yardstick=YARDSTICK)
        return lab.run(methods={m: {} for m in self.asked}, attacks=attacks | {a: {} for a in SEMANTIC}, track=self.track, quality=quality)

    def answers(self, lab: Lab, run: Run, name: str, seed: int) -> Stage:
        """How far one model goes on after each kind of prompt, for every forget memory."""
        model, label = run.model(name, seed), f"prompts of three kinds to {name}, seed {seed}"

        def rows() -> Iterable[dict[str, Any]]:
            memories = [m for m in run.encoded(seed) if m.role == "forget"]
            with run.loaded(model) as subject:
                known = load_cache(run.attacking.rows(model, subject))  # what other runs in this store asked it
                out = ask_all(subject, run.who.probes(seed), [(a, memories) for a in run.who.attacks], run.suite.precision, cache=known)
            for m in memories:
                yield {"method": name, "seed": seed, "memory": m.id, **by_kind([a for a in out.answers if a.memory == m.id])}

        inputs = {"model": model.key, "base": run.base.hash, "encoding": run.base.encoding, "row": self.row, "memories": run.held(seed).key}
        return lab.measurement(label, inputs | {"attacks": [a.spec for a in run.who.attacks]}, rows)


def by_kind(answers: Sequence[BestAnswer]) -> dict[str, Any]:
    """The longest match after the exact opening, after prompts from other positions, and after reworded ones; and which prompt it was."""
    kinds: dict[str, list[BestAnswer]] = {"exact": [], "position": [], "semantic": []}
    for a in answers:
        kinds["semantic" if a.attack in SEMANTIC else "exact" if a.variant == "opening" else "position"].append(a)
    best = {kind: max(found, key=lambda a: a.matched) for kind, found in kinds.items() if found}
    lengths = {kind: best[kind].matched if kind in best else None for kind in kinds}
    return lengths | {f"{kind}_by": f"{best[kind].attack} {best[kind].variant}" for kind in ("position", "semantic") if kind in best}


def bits_per_byte(lab: Lab, run: Run, name: str, seed: int) -> float:
    """Quality of a model, from its finished stage."""
    folder = lab.store.ensure(run.quality_stage(run.model(name, seed)))
    return next(row["value"] for _, row in json_lines(folder / "quality.jsonl") if row["metric"] == "bits_per_byte")
