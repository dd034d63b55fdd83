"""Which prompt states a memorised token depends on (Huang, Yang & Potts 2024, arXiv 2407.17817)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch

from ...leaderboard.study_results import Found
from ..common.errors import UserError
from ..common.limits import Bound, Count, Share
from ..common.seeds import rng
from ..common.types import HELD, TWIN, EncodedMemory
from ..running.plan import Run
from ..running.store import Stage
from ..study import Lab, Study
from ._interchange import dependence, lengths, swapped
from ._stream import Stream, parts
from .pages.dependency import page


@dataclass(frozen=True)
class Dependency(Study):
    """One state of the residual stream, at one layer and one place of the opening, is replaced by that of a random prompt at the same layer
    and place, and every token after the opening is predicted again, the true tokens before it being read. A memorised token depends
    on the state if at least half of the random prompts (`agree`) change what the model says there. Memorised are the tokens that the
    held model says after the opening before its first mistake, of texts of which it says at least `least`; beside them stand
    the tokens of texts that it never saw which it says right all the same. Then what attention or MLP of the retrained twin give
    is put into the held model, in one layer or in all, and the reverse, and the memorised length is read again.
    """

    sources: Annotated[int, Bound("at least 10", lambda v: v >= 10)] = 10  # random prompts
    agree: Share = 0.5  # of the sources that must change a token
    texts: Count = 32  # of each role and seed of which states are interchanged
    least: Count = 16  # tokens after the opening, of a text that is memorised

    question: ClassVar[str] = "Which states of the prompt does a memorised token depend on?"
    paper: ClassVar[str] = "Huang, Yang & Potts 2024"
    address: ClassVar[str] = "https://arxiv.org/abs/2407.17817"
    forms: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pocket": {},
        "fast": {"model": "pocket-small", "per_role": 8, "seeds": (0,), "texts": 1, "least": 1},
    }

    def stages(self, lab: Lab) -> Iterable[Stage]:
        run = lab.run()
        for seed in self.seeds:
            yield run.held(seed)
            yield from (self.interchange(lab, run, seed, role) for role in ("forget", "unseen"))
            yield run.twin(seed)
            yield self.swap(lab, run, seed)

    def interchange(self, lab: Lab, run: Run, seed: int, role: str) -> Stage:
        """Rows `token` and `state`, of memorised texts (forget) or of texts that were never seen (unseen)."""
        inputs = {"model": run.held(seed).key, "corpus": run.corpus.key, "role": role}
        inputs |= {"sources": self.sources, "texts": self.texts, "least": self.least, "row": self.row, "per_role": self.per_role}
        label = {"forget": "memorised", "unseen": "never seen"}[role]

        def rows() -> Iterable[Mapping[str, Any]]:
            with run.loaded(run.model(HELD, seed)) as subject:
                stream, bos = Stream(subject), subject.with_bos(())
                asked = [m for m in run.encoded(seed) if m.role == role]
                for m, known in self._known(stream, asked, bos, role):
                    others = self._prompts(run, bos, m.opening, rng(seed, "dependency", m.id))
                    tokens = max(known) + 1
                    share = dependence(stream, bos + m.row, len(bos) + m.opening, tokens, others)[:, len(bos) :, known]
                    yield from _rows(m, seed, label, known, share)

        return lab.measurement(f"states interchanged, {label}, seed {seed}", inputs, rows)

    def _known(
        self, stream: Stream, asked: Sequence[EncodedMemory], bos: tuple[int, ...], role: str
    ) -> Iterable[tuple[EncodedMemory, list[int]]]:
        """Texts, and which tokens of their targets (from 0) the model says: all before the first mistake, or all that are right."""
        matched = lengths(stream, asked, bos)
        if role == "forget":
            some = [(m, list(range(n))) for m, n in zip(asked, matched, strict=True) if n >= self.least]
        else:
            some = [(m, found) for m in asked if (found := right(stream, m, bos))]
        return some[: self.texts]

    def _prompts(self, run: Run, bos: tuple[int, ...], length: int, draw: np.random.Generator) -> torch.Tensor:
        """Ids [sources, bos and length] of random held-out text."""
        rows = [r.ids[len(bos) :] for r in run.held_out]
        pieces = [row[i : i + length] for row in rows for i in range(0, len(row) - length + 1, length)]
        if len(pieces) < self.sources:
            raise UserError(f"The held-out text holds {len(pieces)} pieces of {length} tokens; sources={self.sources} needs as many.")
        return torch.tensor([bos + pieces[i] for i in draw.choice(len(pieces), self.sources, replace=False)])

    def swap(self, lab: Lab, run: Run, seed: int) -> Stage:
        """Rows `swap`: memorised length of every forget memory, with a component of the other model."""
        inputs = {"held": run.held(seed).key, "twin": run.twin(seed).key, "row": self.row, "per_role": self.per_role}

        def rows() -> Iterable[Mapping[str, Any]]:
            asked = [m for m in run.encoded(seed) if m.role == "forget"]
            with run.loaded(run.model(HELD, seed)) as held, run.loaded(run.model(TWIN, seed)) as twin:
                opened = {HELD: Stream(held), TWIN: Stream(twin)}
                taken = {name: parts(stream) for name, stream in opened.items()}
                bos = held.with_bos(())
                for into, other in ((HELD, TWIN), (TWIN, HELD)):
                    own = [("none", None, lengths(opened[into], asked, bos))]
                    for component, layer, told in own + swapped(opened[into], taken[into], opened[other], taken[other], asked, bos):
                        which = {"into": "held" if into == HELD else "twin", "component": component}
                        which |= {"layer": "all" if layer is None else str(layer + 1)}
                        for m, matched in zip(asked, told, strict=True):
                            yield {"kind": "swap", "seed": seed, **which, "memory": m.id, "matched": matched}

        return lab.measurement(f"components swapped, seed {seed}", inputs, rows)

    def found(self, lab: Lab) -> Found:
        run = lab.run()
        stages = [
            s
            for seed in self.seeds
            for s in (*(self.interchange(lab, run, seed, r) for r in ("forget", "unseen")), self.swap(lab, run, seed))
        ]
        return page([row for stage in stages for row in lab.rows(stage)], self.agree)


@torch.no_grad()
def right(stream: Stream, m: EncodedMemory, bos: tuple[int, ...]) -> list[int]:
    """Which tokens of the target the model says when it has read the true ones before."""
    row, opening = bos + m.row, len(bos) + m.opening
    ids = torch.tensor([row[: opening + len(m.target)]], device=stream.device)
    said = stream.logits(stream.go_on(ids, 0, stream.read(ids)[0])[:, opening - 1 : -1]).argmax(-1)[0].tolist()
    return [t for t, (a, b) in enumerate(zip(said, m.target, strict=True)) if a == b]


def _rows(m: EncodedMemory, seed: int, label: str, known: list[int], share: torch.Tensor) -> Iterable[Mapping[str, Any]]:
    """A row for each token: by layer the greatest share over places; and for each state: its mean share over tokens."""
    whose = {"seed": seed, "texts": label, "memory": m.id, "domain": m.memory.domain}
    for i, step in enumerate(known):
        yield {"kind": "token", **whose, "step": step, "by_layer": [round(float(v), 4) for v in share[:, :, i].amax(1)]}
    for layer in range(len(share)):
        for place in range(share.shape[1]):
            changed = round(float(share[layer, place].mean()), 6)
            yield {"kind": "state", **whose, "layer": layer, "place": place - share.shape[1], "changed": changed}
