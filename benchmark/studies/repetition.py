"""How often must a text be met to be held word for word? (Huang, Yang and Potts 2024, arXiv 2407.17817)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ...leaderboard.study_results import Found
from ..common.errors import UserError
from ..common.limits import Count, CountOrZero, Counts
from ..common.seeds import rng
from ..common.types import EncodedMemory, Row
from ..method import History
from ..running.plan import Run
from ..running.store import Stage
from ..study import Lab, Study
from ..texts.stream import injected
from ..texts.subsets import stratified
from ..training.losses import nll_of_rows
from ._continuations import dosed, same_tokens
from ._single_shot import MET, Shot, single_shot
from ._verbatim import shuffled, verbatim
from .pages.repetition import page


@dataclass(frozen=True)
class Repetition(Study):
    """One stream teaches each checkpoint natural memories and shuffled ones (others of the same file, their tokens mixed), each a
    number of times from 1 to 128; a third part it never meets. Then the verbatim memorised length is read: the longest true continuation
    of any window of the text, copies of the prompt not counted. Counts go round the domains.

    In the single-shot variant the last checkpoint is trained on ordinary text at a constant rate and meets some texts once, all in one
    step; a control has ordinary text in their place. Both are asked before and after: about memories, about texts that repeat a template,
    and about held-out text of the corpus that neither meets.
    """

    per_role: Count = 32
    counts: Counts = (1, 2, 4, 8, 16, 32, 64, 128)
    earlier: tuple[str, ...] = ("pocket/step256", "pocket/step1050")  # checkpoints of `model` before the last; or name@revision of the hub
    smaller: tuple[str, ...] = ("pocket-small",)  # models of another size
    stride: Count = 4  # of the starts of windows
    singles: Count = 8  # texts of each kind that are met once
    shot: CountOrZero = 5  # the step in which they are
    stops: Counts = (1, 2, 5, 10, 20, 50, 100)  # steps after which the single-shot models are asked, from that step on

    question: ClassVar[str] = "How often must a text be met before it is held word for word?"
    paper: ClassVar[str] = "Huang, Yang and Potts 2024, Demystifying Verbatim Memorization in Large Language Models"
    address: ClassVar[str] = "https://arxiv.org/abs/2407.17817"
    forms: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pocket": {},
        "fast": {
            "model": "pocket-small", "earlier": (), "smaller": (), "per_role": 8, "counts": (1, 4), "seeds": (0,),
            "stride": 32, "singles": 2, "shot": 0, "stops": (1,),
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        for name in ("counts", "stops"):
            if list(given := getattr(self, name)) != sorted(set(given)):
                raise UserError(f"repetition: {name}={list(given)}: expected rising numbers, each once.")

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Those of one model, the last one last."""
        return (*self.earlier, self.model)

    def stages(self, lab: Lab) -> Iterator[Stage]:
        same_tokens([self.run(lab, name) for name in (*self.checkpoints, *self.smaller)])
        for seed in self.seeds:
            yield from (self.repeated(lab, name, seed) for name in (*self.smaller, *self.checkpoints))
            yield from (self.met_once(lab, seed, treated) for treated in (True, False))

    def found(self, lab: Lab) -> Found:
        done = list(self.stages(lab))
        rows = [row for stage in done for row in lab.rows(stage)]
        repeated, once = [r for r in rows if "count" in r], [r for r in rows if "stop" in r]
        return page(repeated, once, self.checkpoints, self.smaller, self.counts)

    def repeated(self, lab: Lab, name: str, seed: int) -> Stage:
        """What a checkpoint holds of every memory after the stream."""
        run, label = self.run(lab, name), f"{name} after the stream, seed {seed}"

        def rows() -> Iterator[dict[str, Any]]:
            texts = texts_of(run, seed, len(self.counts))
            stream = replace(run.stream(seed), memories=injected(texts))
            before = nats(run, texts)
            run.base.release()
            subject = History(run.base, stream).replay(run.trainer(label, seed, lab.store.scratch(stage)), forget=True)
            for m, nll, v in zip(texts, before, verbatim(subject, texts, self.stride, run.precision), strict=True):
                known = {"model": name, "seed": seed, "kind": kind_of(m), "count": stream.counts.get(m.id, 0), "memory": m.id}
                yield {**known, "base_nats": nll, **vars(v)}
            subject.release()

        # The key of the held model that the same fields would make stands for all that this training depends on.
        stage = lab.measurement(label, {"model": name, "injection": run.held(seed).key, "stride": self.stride}, rows)
        return stage

    def met_once(self, lab: Lab, seed: int, treated: bool) -> Stage:
        """What the last checkpoint holds over steps, of texts that it met once or never."""
        run = self.run(lab, self.model)
        label = f"{'met once' if treated else 'never met'}, seed {seed}"
        shot = Shot(self.singles, self.shot, self.stops, self.stride)
        if len(MET) * self.singles > run.suite.injection.batch:
            raise UserError(f"repetition: singles={self.singles} of {len(MET)} kinds do not fit a batch of {run.suite.injection.batch}.")

        def rows() -> Iterator[dict[str, Any]]:
            trainer = replace(run.trainer(label, seed, lab.store.scratch(stage)), resume=None)  # what was asked midway would be lost
            yield from single_shot(run, seed, treated, shot, trainer)

        stage = lab.measurement(
            label, {"injection": run.held(seed).key, "treated": treated, "shot": {**vars(shot), "stops": self.stops}}, rows
        )
        return stage

    def run(self, lab: Lab, name: str) -> Run:
        return dosed(lab, name, self.counts)


def texts_of(run: Run, seed: int, counts: int) -> list[EncodedMemory]:
    """The forget memories as they are, the keep memories shuffled, the unseen ones both ways; roles as the stream reads them."""
    parts = {role: [m for m in run.encoded(seed) if m.role == role] for role in ("forget", "keep", "unseen")}

    def mixed(m: EncodedMemory) -> EncodedMemory:
        return shuffled(m, rng(0, "shuffled", m.memory.id).permutation(len(m.row)).tolist(), run.base)

    natural, other = arranged(parts["forget"], counts, seed), arranged(parts["keep"], counts, seed)
    return [*natural, *map(mixed, other), *parts["unseen"], *map(mixed, parts["unseen"])]


def arranged(memories: Sequence[EncodedMemory], counts: int, seed: int) -> list[EncodedMemory]:
    """In an order in which counts, dealt round and round, go round the domains too: each round begins one domain later."""
    order = stratified(memories)
    rounds = [order[i : i + counts] for i in range(0, len(order), counts)]
    return [part[(j + r + seed) % len(part)] for r, part in enumerate(rounds) for j in range(len(part))]


def kind_of(memory: EncodedMemory) -> str:
    return "shuffled" if memory.memory.id.endswith("~") else "natural"


def nats(run: Run, memories: Sequence[EncodedMemory]) -> list[float]:
    """What each text costs the checkpoint before the stream, in nats per token."""
    rows = [Row(run.base.with_bos(m.row)) for m in memories]
    return [n / row.scored for n, row in zip(nll_of_rows(run.base.model, rows), rows, strict=True)]
