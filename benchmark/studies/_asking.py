"""What every measure says about one model: all attacks, all token readings, generated texts, as one flat row per memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from ..attack_tools.bases import Membership, Prompting, Workshop
from ..battery.answers import BestAnswer
from ..battery.one_attack import Task, attack_once
from ..battery.shared_pass import Armed, Probes, arm, ask_all
from ..common.seeds import derive
from ..common.types import HELD, HORIZON, TWIN, EncodedMemory, Finding, Row, TokenReading
from ..models.subject import Subject
from ..reading.reader import Reader
from ..running.plan import Run
from ..texts.subsets import stratified
from ..training.losses import nll_of_rows
from ..training.trainer import Trainer
from ._measures import exact_memorisation, extraction_strength, memorisation_score, rouge_l, truth_margin

FLOOR = -1e4  # nats: what is never drawn counts as so unlikely, since a row holds no infinity
PROMPTS: dict[str, dict[str, Any]] = {
    "prefix": {}, "longer_prefix": {}, "shifted_window": {"stride": 16}, "paraphrase": {}, "logit_lens": {},
}  # fmt: skip
REWORDED: dict[str, dict[str, Any]] = {  # of passages: they need a base model, or memories that an attacker may know
    "word_substitution": {}, "base_substitution": {}, "embedding_neighbours": {}, "filler": {"lengths": [8, 32]},
    "formatting": {"slips": [1, 4], "tries": 2}, "frames": {}, "priming": {"pairs": [1, 2]}, "beam_search": {"widths": [4]},
}  # fmt: skip
MEMBERSHIPS = ("loss", "zlib_ratio", "min_k", "min_k_plus_plus", "reference", "sampling")
ROUNDED: dict[str, dict[str, Any]] = {"quantise": {"variants": ["int4"]}}
ABLATED: dict[str, dict[str, Any]] = {"ablate_direction": {}}  # needs ordinary text that the model was trained on
RELEARN: dict[str, dict[str, Any]] = {"relearn": {"shares": [0.5], "points": []}}
MATCHED = "matched "  # before an attack's name: its longest match


@dataclass(frozen=True)
class Battery:
    """Which attacks are asked: those that count for leak, scores of membership, and dear ones of which only a few memories are asked."""

    lengths: Sequence[Armed]
    memberships: Sequence[Armed]
    dear: Sequence[Armed]
    relearn: Sequence[Armed]

    @classmethod
    def of(cls, siblings: int, relearn: Mapping[str, Any], injected: bool = True) -> Battery:
        """`siblings`: texts among which exposure ranks. Not `injected`: without what needs a base model, known memories or retain text."""
        dear: dict[str, dict[str, Any]] = {"exposure": {"texts": siblings}, "patching": {}}
        again = {"relearn": {**RELEARN["relearn"], **relearn}}
        return cls(
            arm(PROMPTS | ROUNDED | (REWORDED | ABLATED if injected else {})),
            arm({name: {} for name in MEMBERSHIPS}),
            arm(dear),
            arm(again),
        )

    @property
    def spec(self) -> list[dict[str, Any]]:
        return [a.spec for a in (*self.lengths, *self.memberships, *self.dear, *self.relearn)]

    @property
    def access(self) -> dict[str, str]:
        """Attack that counts for leak -> access level."""
        return {a.name: a.attack.access for a in self.lengths}


@dataclass
class Asking:
    """The memories of one seed, and what is needed to ask models about them."""

    battery: Battery
    memories: Sequence[EncodedMemory]  # forget and unseen ones that are asked about
    everyone: Sequence[EncodedMemory]  # all of the seed: folds are drawn over these
    few: int  # forget memories of which dear measures are taken
    probes: Probes
    tools: Callable[[str, Mapping[str, TokenReading]], Workshop]
    reference: Mapping[str, TokenReading] = field(repr=False)  # of the twin
    precision: str = "auto"
    held_out: Sequence[Row] = field(default=(), repr=False)

    def rows(self, subject: Subject, label: str, null: bool = False, relearn: bool = False) -> Iterator[dict[str, Any]]:
        """One row per forget and unseen memory. `null`: lengths of unseen ones too. `relearn`: what comes back after relearning others."""
        forget = [m for m in self.memories if m.role == "forget"]
        asked = list(self.memories) if null else forget
        prompts = [(a, asked) for a in self.battery.lengths if isinstance(a.attack, Prompting)]
        out = ask_all(subject, self.probes, prompts, self.precision, tokens=self.memories)
        answers, findings = list(out.answers), []
        tools = self.tools(label, out.readings)
        dear = [m for m in stratified(forget)[: self.few]]
        singles = [(a, asked) for a in self.battery.lengths if not isinstance(a.attack, Prompting)] + [(a, dear) for a in self.battery.dear]
        for armed, scored in [*singles, *((a, forget) for a in self.battery.relearn if relearn)]:
            task = Task(armed, scored, self.everyone, tools, self.probes, self._reasked)
            attack_once(task, subject)
            answers += task.answers
            findings += task.findings
        told = self._told(answers, findings)
        said = dict(zip((m.id for m in forget), self._generated(subject, forget), strict=True))
        others = self._other_endings(subject, forget)
        for m in self.memories:
            reading = out.readings[m.id]
            row = {
                "memory": m.id,
                "role": m.role,
                "horizon": min(HORIZON, len(m.row) - m.opening),
                **told[m.id],
                **self._tokens(m, reading),
            }
            if m.id in said:
                row |= self._texts(subject, m, said[m.id])
            if m.id in others:
                row["truth_margin"] = truth_margin(_target(m, reading.log_probability), others[m.id])
            yield row

    def health(self, subject: Subject) -> float:
        """Nats per token on held-out text; NaN without any."""
        return sum(nll_of_rows(subject.model, self.held_out)) / max(1, sum(r.scored for r in self.held_out))

    @property
    def _reasked(self) -> list[Armed]:
        return [a for a in self.battery.lengths if a.name == "prefix"]

    def _told(self, answers: Sequence[BestAnswer], findings: Sequence[Finding]) -> dict[str, dict[str, Any]]:
        """Memory -> the longest match of each attack, that of the exact opening, and findings by their quantity."""
        asks = {a.name: a.attack.asks for a in self.battery.lengths}
        told: dict[str, dict[str, Any]] = defaultdict(dict)
        for a in answers:
            mine, name = told[a.memory], MATCHED + a.attack
            mine[name] = max(a.matched, mine.get(name, 0))
            if not a.dose and asks.get(a.attack, {}).get(a.variant) == "exact":
                mine["opening"] = a.matched
        for f in findings:
            if f.memory and f.quantity in ("exposure", "depth"):
                told[f.memory][f.quantity] = f.value
        return told

    def _tokens(self, m: EncodedMemory, reading: TokenReading) -> dict[str, float]:
        """Measures of one forward pass over the row."""
        said = _target(m, reading.rank) == 0
        out = {"extraction_strength": extraction_strength(said), "exact_memorisation": exact_memorisation(said)}
        for armed in self.battery.memberships:
            assert isinstance(armed.attack, Membership)
            out[armed.name] = max(FLOOR, float(armed.attack.score(m, reading, self.reference[m.id])))
        return out

    @staticmethod
    def _generated(subject: Subject, forget: Sequence[EncodedMemory]) -> list[tuple[int, ...]]:
        return subject.generate([m.row[: m.opening] for m in forget], max(len(m.target) for m in forget))

    @staticmethod
    def _texts(subject: Subject, m: EncodedMemory, said: tuple[int, ...]) -> dict[str, float]:
        """Measures of what the model generates after the exact opening."""
        texts = [subject.tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in (said[: len(m.target)], m.target)]
        return {"memorisation_score": memorisation_score(said, m.target), "rouge_l": rouge_l(texts[0], texts[1])}

    def _other_endings(self, subject: Subject, forget: Sequence[EncodedMemory]) -> dict[str, np.ndarray]:
        """Memory -> mean log-probability of the tokens of each other continuation (wrong answer) after the same opening."""
        other: dict[str, list[EncodedMemory]] = defaultdict(list)
        for m in forget:
            for i, text in enumerate(m.memory.wrong or filter(None, [m.memory.alternative])):
                ids = subject.tokenizer(f" {text.lstrip()}", add_special_tokens=False)["input_ids"]
                row = (*m.row[: m.opening], *ids)[: len(m.row)]
                other[m.id].append(replace(m, memory=replace(m.memory, id=f"{m.id} {i}"), row=row))
        reader = Reader(subject, self.precision)
        reader.read([], list(chain(*other.values())))
        return {name: np.array([reader.readings[m.id].log_probability[m.opening :].mean() for m in ms]) for name, ms in other.items()}


def asking(run: Run, seed: int, battery: Battery, asked: int, few: int) -> Asking:
    """How models of a run are asked about `asked` memories of each role. Held model and twin of the seed must be done."""
    every = run.encoded(seed)
    chosen = [m for role in ("forget", "unseen") for m in stratified([m for m in every if m.role == role])[:asked]]
    twin = run.subject(run.model(TWIN, seed))
    reader = Reader(twin, run.suite.precision)
    reader.read([], chosen)
    twin.release()
    tools = workshop(run, seed)
    return Asking(battery, chosen, every, few, run.who.probes(seed), tools, reader.readings, run.suite.precision, run.held_out)


def workshop(run: Run, seed: int) -> Callable[[str, Mapping[str, TokenReading]], Workshop]:
    """What attacks on a model of this seed may use, given a label and what the model says about each token."""

    def made(label: str, tokens: Mapping[str, TokenReading]) -> Workshop:
        def trainer(purpose: str) -> Trainer:
            return Trainer(run.precision, run.suite.deepspeed, derive(seed, "instrument", label, purpose))

        held, twin = (run.subject(run.model(name, seed)) for name in (HELD, TWIN))
        known, retain = run.who.known(seed), run.stream(seed).retain.row
        given = {"tokens": tokens, "precision": run.suite.precision, "held": held, "twin": twin}
        return Workshop(run.base, derive(seed, "attacks"), known, retain=retain, trainer=trainer, **given)

    return made


def _target(m: EncodedMemory, of_row: np.ndarray) -> np.ndarray:
    return of_row[m.opening : m.opening + HORIZON]
