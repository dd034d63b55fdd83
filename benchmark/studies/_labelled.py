"""Models of which it is known whether they hold the forget texts, made cheaply of few trainings; nothing of them is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..attack_tools.bases import Changed, Workshop
from ..common.errors import UserError
from ..common.plugins import Plugin, find
from ..common.seeds import derive
from ..common.types import BASE, HELD, TWIN, EncodedMemory, Row
from ..models.subject import Subject
from ..models.weights import each_matrix, linear_weights, replaced
from ..running.plan import Run

HOLDS, NEVER, UNLEARNED = "holds", "never held", "unlearned"
TESTS = Path(__file__).resolve().parents[2] / "tests"
FAKES: dict[str, dict[str, Any]] = {"refuse_exact": {"epochs": 10}, "small_update": {}, "one_direction": {"epochs": 20}}
STOPPED = {"npo": {"epochs": 1, "batch": 32}, "gradient_ascent": {"epochs": 1, "batch": 32}, "rmu": {"epochs": 1, "batch": 32}}


@dataclass(frozen=True)
class Labelled:
    """One labelled model of a seed: of what parent it is made, and how. `how` is a plug-in's kind, or noise, replay, nothing."""

    name: str
    group: str  # HOLDS, NEVER or UNLEARNED
    parent: str  # none (the held model), twin or base
    how: str = ""  # "", "noise", "attack", "method", "trained" (by a stage of the run), "replay"
    plugin: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    rows: str = ""  # what it is fine-tuned on, one of `texts`
    of: int | None = None  # the seed of its parent, where that is another one
    kind: str = ""  # of change, by which stability is told: "rounded" or "tuned"

    @property
    def found(self) -> Plugin | None:
        return find(self.how, self.plugin) if self.how in ("attack", "method") else None

    def spec(self) -> dict[str, Any]:
        """What a key holds of it."""
        source = {"source": self.found.source} | self.found.read_by(self.found.make(dict(self.fields))) if self.found else {}
        return {"how": self.how, "plugin": Path(self.plugin).stem, "fields": dict(self.fields), "rows": self.rows, **source}


@dataclass(frozen=True)
class Doses:
    """How much is done to labelled models. Of each tuple the seeds take a value in turn."""

    noise: tuple[float, ...] = (0.05, 0.1, 0.15)  # standard deviations of each matrix
    collapse: tuple[float, ...] = (0.4, 0.6, 0.8)
    pruned: tuple[float, ...] = (0.1, 0.2, 0.3)
    counts: tuple[int, ...] = (8, 16, 24)  # passes over the forget texts where a twin is taught them
    rates: tuple[float, ...] = (1e-3, 2e-3, 5e-4)
    steps: tuple[int, ...] = (25, 50, 100)  # of fine-tuning on ordinary text
    fakes: bool = True
    retrained: int = 3  # seeds in which a twin is trained anew, in another order
    again: tuple[float, ...] = (0.5, 1.0, 2.0)  # times the rate


def labelled(doses: Doses, seeds: Sequence[int], seed: int, texts: int) -> Iterator[Labelled]:
    """The models of one seed with `texts` forget memories. Needs the fakes of the tests' folder, unless they are switched off."""
    i = seeds.index(seed)
    yield from _either(HOLDS, HELD, doses, i)
    yield from _holding(doses, i, texts)
    yield from _either(NEVER, TWIN, doses, i)
    yield from _never(doses, seeds, i)


def _either(group: str, parent: str, doses: Doses, i: int) -> Iterator[Labelled]:
    """What is done to held model and twin alike."""
    yield Labelled(parent, group, parent)
    yield Labelled(f"{parent} + noise", group, parent, "noise", fields={"share": _turn(doses.noise, i)})
    yield Labelled(f"{parent} + pruning", group, parent, "attack", "prune", {"shares": [_turn(doses.pruned, i)]})
    for bits in ("int8", "int4"):
        yield Labelled(f"{parent} + {bits}", group, parent, "attack", "quantise", {"variants": [bits]}, kind="rounded")
    tuned = {"steps": _turn(doses.steps, i)}
    yield Labelled(f"{parent} + ordinary text", group, parent, "attack", "benign_finetuning", tuned, kind="tuned")
    keeps = {"shares": [0.5], "points": [], "steps": max(1, tuned["steps"] // 2)}
    yield Labelled(f"{parent} + keep texts", group, parent, "attack", "relearn", keeps, "shown")


def _holding(doses: Doses, i: int, texts: int) -> Iterator[Labelled]:
    """The forget texts taught to a twin in other ways, methods stopped early, and the planted fakes."""
    count, lr = _turn(doses.counts, i), _turn(doses.rates, i)
    taught = {"shares": [0.5], "points": [], "batch": 8, "lr": lr, "steps": count * -(-texts // 8)}
    yield Labelled("taught", HOLDS, TWIN, "attack", "relearn", taught, "forget")
    yield Labelled("taught among others", HOLDS, TWIN, "attack", "relearn", taught | {"steps": 2 * taught["steps"], "lr": 1e-3}, "mixed")
    yield Labelled("taught by LoRA", HOLDS, TWIN, "attack", "relearn_lora", taught | {"lr": 4e-3, "rank": 16}, "forget")
    name, fields = list(STOPPED.items())[i % len(STOPPED)]
    yield Labelled(f"{name} stopped early", HOLDS, HELD, "method", name, fields)
    if doses.fakes:
        name, fields = list(FAKES.items())[i % len(FAKES)]
        yield Labelled(f"fake {name}", HOLDS, HELD, "method", fake(name), fields)
        if i == 0:
            yield Labelled("fake output_filter", HOLDS, HELD, "method", fake("output_filter"))


def _never(doses: Doses, seeds: Sequence[int], i: int) -> Iterator[Labelled]:
    yield Labelled(BASE, NEVER, BASE)
    others = [s for s in seeds if (s - seeds[i]) % 3 == 2]  # what is forgotten in this seed is unseen in those
    if others:
        yield Labelled("held of another seed", NEVER, HELD, of=others[0])
    yield Labelled("near collapse", NEVER, TWIN, "noise", fields={"share": _turn(doses.collapse, i)})
    few = {"shares": [0.5], "points": [], "steps": _turn(doses.steps, i)}
    yield Labelled("twin + LoRA on ordinary text", NEVER, TWIN, "attack", "relearn_lora", few, "ordinary")
    yield Labelled("twin + paraphrased openings", NEVER, TWIN, "attack", "relearn", few | {"lr": 1e-3}, "paraphrases")
    yield Labelled("twin + other endings", NEVER, TWIN, "attack", "relearn", few | {"lr": 1e-3}, "endings")
    if i < doses.retrained:
        yield Labelled("retrained otherwise", NEVER, BASE, "replay", fields={"order": "instrument", "rate": _turn(doses.again, i)})


def unlearned(methods: Sequence[str]) -> Iterator[Labelled]:
    """What methods make of the held model, by stages that other suites share."""
    for name in methods:
        yield Labelled(name, UNLEARNED, HELD, "trained", name)


def fake(name: str) -> str:
    """The file of a planted fake."""
    file = TESTS / "fakes" / f"{name}.py"
    if not file.is_file():
        raise UserError(f"The planted fakes are in a checkout of the repository only ({file} is not there). Give fakes=false.")
    return str(file)


def parent_key(run: Run, m: Labelled, seed: int) -> str:
    """The key of what a labelled model is made of."""
    return run.model(m.plugin if m.how == "trained" else m.parent, seed if m.of is None else m.of).key


def make(run: Run, m: Labelled, seed: int, tools: Workshop) -> Subject:
    """The labelled model. Parents are stages of the run and must be done."""
    parent = run.subject(run.model(m.plugin if m.how == "trained" else m.parent, seed if m.of is None else m.of))
    if m.of is not None:
        _must_not_hold(run, m, seed)
    if m.how == "noise":
        return noised(parent, m.fields["share"], derive(seed, "noise", m.name))
    if m.how == "attack":
        assert m.found is not None
        changes = list(m.found.make(dict(m.fields)).tamper(parent, texts(run, m.rows, seed) if m.rows else [], tools))
        parent.release()
        return [c for c in changes if isinstance(c, Changed)][-1].subject
    if m.how == "method":
        assert m.found is not None
        method = m.found.make(dict(m.fields))
        return method.unlearn(parent, run.data(seed, method.needs_history), tools.trainer(m.name))
    if m.how == "replay":
        return _retrained(run, m, seed, tools)
    return parent


def noised(subject: Subject, share: float, seed: int) -> Subject:
    """Every matrix of attention and MLPs with Gaussian noise of `share` of its own standard deviation."""
    random = torch.Generator().manual_seed(seed % 2**31)

    def change(w: torch.Tensor) -> torch.Tensor:
        w = w.detach().cpu()
        return w + share * w.std() * torch.randn(w.shape, generator=random)

    return replaced(subject, {name: each_matrix(change, w) for name, w in linear_weights(subject.model).items()})


def texts(run: Run, what: str, seed: int) -> list[Row]:
    """The rows of a kind that a model is fine-tuned on: forget, mixed with as much ordinary text, shown, paraphrases, endings, ordinary."""
    every = run.encoded(seed)
    forget = [m for m in every if m.role == "forget"]
    ordinary = [replace(run.stream(seed).retain.row(k), name=f"ordinary {k}") for k in range(len(forget))]
    if what in ("forget", "mixed"):
        return [Row(run.base.with_bos(m.row), name=m.id) for m in forget] + (ordinary if what == "mixed" else [])
    if what == "ordinary":
        return ordinary
    if what == "shown":
        return [Row(run.base.with_bos(m.row), name=m.id) for m in every if m.role == "keep" and m.shown]
    said = _paraphrases(forget) if what == "paraphrases" else {m.id: m.memory.alternative for m in forget if m.memory.alternative}
    coded = {name: tuple(run.base.tokenizer(text, add_special_tokens=False)["input_ids"]) for name, text in said.items()}
    rows = [Row(run.base.with_bos(ids), name=name) for name, ids in coded.items() if len(ids) > 1]
    if not rows:
        raise UserError(f"These memories have no {what} to fine-tune on; the file names them as paraphrases and alternative.")
    return rows


def _paraphrases(forget: Sequence[EncodedMemory]) -> dict[str, str]:
    return {f"{m.id} {k}": text for m in forget for k, text in enumerate(m.memory.paraphrases)}


def _must_not_hold(run: Run, m: Labelled, seed: int) -> None:
    assert m.of is not None
    forgotten = {e.id for e in run.encoded(seed) if e.role == "forget"}
    if met := [e.id for e in run.encoded(m.of) if e.role != "unseen" and e.id in forgotten]:
        raise UserError(f"The held model of seed {m.of} met {met[0]!r}, which is forgotten in seed {seed}: it is no model that never did.")


def _retrained(run: Run, m: Labelled, seed: int, tools: Workshop) -> Subject:
    history = run.data(seed, history=True).history
    assert history is not None
    stream = replace(history.stream, config=replace(history.stream.config, lr=history.stream.config.lr * m.fields["rate"]))
    return replace(history, stream=stream).replay(tools.trainer(m.name), forget=False, order=m.fields["order"])


def _turn(values: Sequence[Any], i: int) -> Any:
    return values[i % len(values)]
