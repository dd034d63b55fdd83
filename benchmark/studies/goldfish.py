"""Does leaving tokens out of the loss keep a model from repeating its training text? (Hans et al. 2024, arXiv 2406.10209)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from ...leaderboard.study_results import Found
from ..common.errors import UserError
from ..common.limits import SOME, Count, Counts
from ..common.plugins import Plugin, find
from ..common.types import BASE, HELD
from ..models.subject import Subject
from ..running.model import Model
from ..running.plan import Run
from ..running.store import Stage
from ..study import Lab, Study
from ._goldfish_answers import BEFORE, STANDARD, Asked, held_out, name_of, of_memories
from .pages.goldfish import page

METHOD = "goldfish_retrain"


@dataclass(frozen=True)
class Goldfish(Study):
    """The base model is trained on one stream with the standard loss, and again with the goldfish loss, which leaves out about 1/k of the
    tokens: with every k under the first mask, and with every mask at some k. Each model goes on greedily after the exact opening of each
    memory; what it says is compared with the text in ids and by ROUGE-L, and where it first differs with the tokens that were left out.
    Memories that were never met are the null. Membership inference tells met from unmet memories by loss and by loss over zlib's bytes; a
    search with 30 beams tells for how many tokens the text stays among them. Held-out loss is measured after the same stream, and after
    one that is k/(k-1) times as long, so that as many tokens were supervised.
    """

    per_role: Count = 32
    ks: Counts = (3, 4, 8, 32)
    masks: Annotated[tuple[str, ...], SOME] = ("hash", "hash-table", "static", "random")
    every_mask: tuple[Count, ...] = (4,)  # the k that are trained with every mask
    equal: tuple[Count, ...] = (4,)  # the k that are trained on as many supervised tokens too
    beams: Count = 30

    question: ClassVar[str] = "Does leaving tokens out of the loss keep a model from repeating its training text?"
    paper: ClassVar[str] = "Hans et al. 2024, Be like a Goldfish, Don't Memorize! Mitigating Memorization in Generative LLMs"
    address: ClassVar[str] = "https://arxiv.org/abs/2406.10209"
    forms: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pocket": {},
        "fast": {
            "model": "pocket-small", "per_role": 4, "seeds": (0,), "ks": (3, 4), "masks": ("hash", "static"), "equal": (4,), "beams": 4,
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        for name in ("ks", "every_mask", "equal"):
            if min(given := getattr(self, name), default=2) < 2:
                raise UserError(f"goldfish.{name}={list(given)}: expected numbers of at least 2, since one token in k is left out.")

    @property
    def losses(self) -> tuple[tuple[int, str], ...]:
        """Each k with the first mask, and with every mask where that is asked for."""
        return tuple((k, mask) for k in self.ks for mask in (self.masks if k in self.every_mask else self.masks[:1]))

    def stages(self, lab: Lab) -> Iterator[Stage]:
        for seed in self.seeds:
            yield self.before(lab, seed)
            yield from self.trained(lab, lab.run(), HELD, seed, STANDARD)
            for k, mask in self.losses:
                run = lab.run(methods={METHOD: {"k": k, "mask": mask}})
                yield from self.trained(lab, run, METHOD, seed, name_of(k, mask))
            yield from (self.equally_supervised(lab, k, seed) for k in self.equal)

    def found(self, lab: Lab) -> Found:
        rows = [row for stage in self.stages(lab) if stage.kind == "study" for row in lab.rows(stage)]
        return page(rows, self.ks, self.masks, self.every_mask, self.equal, self.beams)

    def before(self, lab: Lab, seed: int) -> Stage:
        """Held-out loss of the base model: where all trainings begin."""
        run = lab.run()
        model = run.model(BASE, seed)
        inputs = {"model": model.key, "seed": seed, "corpus": run.corpus.key, "encoding": run.base.encoding, "row": self.row}

        def rows() -> Iterator[dict[str, Any]]:
            with run.loaded(model) as subject:
                yield held_out(run, subject, BEFORE, seed)

        return lab.measurement(f"held-out loss before, seed {seed}", inputs, rows)

    def trained(self, lab: Lab, run: Run, name: str, seed: int, loss: str) -> Iterator[Stage]:
        """A model and what it says."""
        model = run.model(name, seed)
        assert model.stage is not None
        plugin, method = run.methods[name]

        def rows() -> Iterator[dict[str, Any]]:
            with run.loaded(model) as subject:
                yield from self.answers(run, subject, seed, loss, method if name == METHOD else None)

        yield model.stage
        yield lab.measurement(f"what {loss} says, seed {seed}", self.inputs(run, model, seed, plugin), rows)

    def equally_supervised(self, lab: Lab, k: int, seed: int) -> Stage:
        """The goldfish loss on a stream that is k/(k-1) times as long; the model is not kept."""
        short = lab.run()
        longer = tuple(round(n * k / (k - 1)) for n in short.suite.injection.occurrences)
        run = lab.run(methods={METHOD: {"k": k, "mask": self.masks[0]}}, injection={"occurrences": longer})
        plugin, method = run.methods[METHOD]
        loss = f"{name_of(k, self.masks[0])}, longer"
        label = f"{loss} (as many supervised tokens), seed {seed}"

        def rows() -> Iterator[dict[str, Any]]:
            trainer = run.trainer(label, seed, lab.store.scratch(stage))
            subject = method.unlearn(run.base, run.data(seed, history=True), trainer)  # it begins at the base, whatever it is given
            yield from self.answers(run, subject, seed, loss, method)
            subject.release()

        stage = lab.measurement(label, self.inputs(run, run.model(METHOD, seed), seed, plugin), rows)
        return stage

    def answers(self, run: Run, subject: Subject, seed: int, loss: str, method: Any) -> Iterator[dict[str, Any]]:
        yield held_out(run, subject, loss, seed)
        yield from of_memories(Asked(run, subject, seed, loss, method, self.beams))

    def inputs(self, run: Run, model: Model, seed: int, plugin: Plugin) -> dict[str, Any]:
        attacks = [find("attack", name) for name in ("loss", "zlib_ratio", "beam_search")]
        known = {"model": model.key, "held": run.held(seed).key, "method": plugin.source, "beams": self.beams}
        return known | {"attacks": {a.name: a.source for a in attacks}}
