"""Do the numbers of this benchmark, and of others, tell models that hold a text from models that never did?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from ...leaderboard.study_results import Found
from ..common.errors import UserError
from ..common.fields import plain
from ..common.limits import Count, CountOrZero, Counts, Shares
from ..common.sources import content_hash
from ..common.types import HELD, TWIN
from ..common.versions import VERSIONS
from ..models.subject import open_subject
from ..running.plan import Run
from ..running.store import Stage
from ..study import Lab, Study
from ._asking import Asking, Battery, asking, workshop
from ._checkpoints import Public, load_checkpoints
from ._coverage import CASES, covered, simulated
from ._labelled import UNLEARNED, Doses, Labelled, labelled, make, parent_key, unlearned
from .pages.instrument import Rows, page


@dataclass(frozen=True)
class Instrument(Study):
    """Models of which it is known whether they hold the forget texts, since they were trained on them or never met them, are made of
    few trainings: the held model and the twin of each seed, noised, pruned, rounded, fine-tuned on afterwards, taught by LoRA, near
    collapse, behind planted fakes, with methods stopped early. Every measure is taken of all of them: how well it tells the two kinds
    apart is its AUC, over models and over memories. A third group are unlearned models: what comes back only after other memories were
    relearned was hidden, and measures are asked which of them sees it beforehand. Coverage of leak's interval and false positives are
    found by simulation with the benchmark's own functions, and by drawing anew from real lengths of models that never held. With
    `checkpoints` public models are judged.
    """

    asked: Count = 32  # memories of each role that a model is asked about
    few: Count = 8  # forget memories of which dear measures are taken: exposure, depth
    siblings: Count = 200  # texts among which exposure ranks
    methods: tuple[str, ...] = ("npo", "grad_diff", "rmu", "undial")  # whose models may hide what they know
    track: str = "pocket-rule-1"  # whose tuned fields they have: those that make prompts fail
    relearn_steps: Count = 20
    worlds: Count = 1000  # of each case of the simulation
    draws: Count = 200  # worlds of real lengths, of each case
    only: tuple[str, ...] = ()  # names of labelled models; empty: all
    noise: Shares = (0.05, 0.1, 0.15)
    collapse: Shares = (0.4, 0.6, 0.8)
    pruned: Shares = (0.1, 0.2, 0.3)
    counts: Counts = (8, 16, 24)
    steps: Counts = (25, 50, 100)
    fakes: bool = True
    retrained: CountOrZero = 3
    checkpoints: str = ""  # a file of public labelled checkpoints (configs/studies), to be judged in place of our own models
    at: str = ""  # where these lie, if not where their file says
    unseen: str = ""  # a file of texts that none of them was trained on; `memories` names what they should have forgotten

    question: ClassVar[str] = "Do our numbers, and those of the field, tell models that hold a text from models that never did?"
    paper: ClassVar[str] = "Lee, Kim and Jo 2026 (judging measures on labelled models)"
    address: ClassVar[str] = "https://arxiv.org/abs/2605.24614"
    forms: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pocket": {},
        "fast": {
            "model": "pocket-small", "per_role": 2, "seeds": [0], "asked": 2, "few": 1, "siblings": 8, "methods": ["npo"], "worlds": 2,
            "draws": 2, "relearn_steps": 2, "counts": [2], "steps": [2], "fakes": False, "retrained": 0,
            "precision": "fp32",
            "only": ["none", "none + int4", "taught by LoRA", "twin", "near collapse", "twin + paraphrased openings"],
        },
    }  # fmt: skip

    def stages(self, lab: Lab) -> Iterable[Stage]:
        yield self._simulation(lab)
        if self.checkpoints:
            yield from (stage for _, _, stage in self._public(lab))
            return
        run = self._run(lab)
        for seed in self.seeds:
            yield from (run.held(seed), run.twin(seed))
            yield from (stage for name in self.methods if (stage := run.model(name, seed).stage))
        yield from (stage for _, _, stage in self._measured(lab))

    def found(self, lab: Lab) -> Found:
        """What all measurements say; pure."""
        measured = self._public(lab) if self.checkpoints else self._measured(lab)
        rows = [{**row, "seed": seed, **_told(m)} for m, seed, stage in measured for row in lab.rows(stage)]
        worlds = lab.rows(self._simulation(lab))
        simulations = {case: [r for r in worlds if r["case"] == i] for i, case in enumerate(CASES)}
        return page(Rows(pd.DataFrame(rows), self._battery.access, simulations, self.draws), public=bool(self.checkpoints))

    @cached_property
    def _battery(self) -> Battery:
        return Battery.of(self.siblings, {"steps": self.relearn_steps}, injected=not self.checkpoints)

    def _run(self, lab: Lab) -> Run:
        return lab.run({name: {} for name in self.methods}, track=self.track)

    def _simulation(self, lab: Lab) -> Stage:
        def rows() -> Iterator[dict[str, Any]]:
            for i, case in enumerate(CASES):
                yield from ({"case": i, **row} for row in covered(case, simulated, self.worlds, seed=i))

        return lab.measurement("simulated leaks", {"cases": [plain(c) for c in CASES], "worlds": self.worlds}, rows)

    def _measured(self, lab: Lab) -> Iterator[tuple[Labelled, int, Stage]]:
        """Every labelled model with its seed and the stage that makes and measures it."""
        run = self._run(lab)
        doses = Doses(**{f.name: getattr(self, f.name) for f in fields(Doses) if hasattr(self, f.name)})
        if self.only and not {HELD, TWIN} <= set(self.only):
            raise UserError(f"only={list(self.only)}: expected none and twin among them, since the others are compared with these.")
        for seed in self.seeds:
            texts = sum(m.role == "forget" for m in run.encoded(seed))
            for m in (*labelled(doses, self.seeds, seed, texts), *unlearned(self.methods)):
                if not self.only or m.name in self.only or m.group == UNLEARNED:
                    yield m, seed, self._stage(lab, run, m, seed)

    def _stage(self, lab: Lab, run: Run, m: Labelled, seed: int) -> Stage:
        label = f"{m.group}: {m.name}, seed {seed}"
        inputs = {"model": m.spec(), "name": m.name, "parent": parent_key(run, m, seed), "seed": seed, "asked": self.asked, "few": self.few}
        inputs |= {"held": run.held(seed).key, "twin": run.twin(seed).key, "attacks": self._battery.spec, "precision": run.precision}
        inputs |= {"method": VERSIONS["method"]}  # models are made within the stage

        def rows() -> Iterator[dict[str, Any]]:
            how: Asking = run.once(("asking", seed), lambda: asking(run, seed, self._battery, self.asked, self.few))
            subject = make(run, m, seed, workshop(run, seed)(f"making {m.name}", {}))
            health = how.health(subject)
            relearn = m.name == TWIN or m.group == UNLEARNED
            yield from ({"held_out": health, **row} for row in how.rows(subject, m.name, m.name in (HELD, TWIN), relearn))
            subject.release()

        return lab.measurement(label, inputs, rows)

    def _public(self, lab: Lab) -> Iterator[tuple[Labelled, int, Stage]]:
        """The same of public checkpoints."""
        named = load_checkpoints(self.checkpoints, self.at)
        if not self.unseen or self.memories == "passages":
            raise UserError(
                "Public checkpoints are asked about texts of theirs: memories=FILE to forget, and unseen=FILE that none has met."
            )
        public = Public(named, Path(self.memories), Path(self.unseen), self.asked, self.row, self.precision)
        files = content_hash([public.forget, public.unseen])
        content = cache(lambda at: open_subject(at).hash if Path(at).is_dir() else "")
        how = cache(lambda: public.asking(self._battery, self.few))
        for name, group in named.labels.items():
            m = Labelled(name, group, name)
            place = named.place(name)
            inputs = {
                "checkpoint": place,
                "content": {at: content(at) for at in sorted({place, named.place(TWIN)})},
                "name": name,
                "texts": files,
                "asked": self.asked,
                "few": self.few,
                "row": self.row,
            }
            inputs |= {"twin": named.place(TWIN), "chat": named.chat, "attacks": self._battery.spec, "precision": self.precision}

            def rows(name: str = name) -> Iterator[dict[str, Any]]:
                subject = public.opened(name)
                yield from how().rows(subject, name, name in (HELD, TWIN))
                subject.release()

            yield m, 0, lab.measurement(f"{group}: {name}", inputs, rows)


def _told(m: Labelled) -> dict[str, Any]:
    parent = m.parent if m.of is None else math.nan
    return {"model": m.name, "group": m.group, "parent": parent, "kind": m.kind}
