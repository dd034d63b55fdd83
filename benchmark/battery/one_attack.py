"""Runs one attack of the expensive tiers on one model: a search, or a change of the model that is then asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..attack_tools.bases import Changed, Searching, Tampering, Workshop
from ..common.errors import UserError
from ..common.processes import gathered, my_share
from ..common.progress import Progress, silent
from ..common.strangers import each, stranger
from ..common.types import MATCHED, Answer, EncodedMemory, Finding, Row, opening_probe
from ..models.subject import Subject
from ..reading.cache import Cache
from ..reading.reader import Reader, copied
from ..texts.subsets import folds
from .accepted import stand_ins, with_whole_answers
from .answers import BestAnswer, of_all_ranks
from .claims import reread_claims
from .shared_pass import Armed, Probes, ask_all, read_lengths


@dataclass
class Task:
    """One attack, the memories it is scored on, all memories of the seed (folds are drawn over these), and what it may use."""

    armed: Armed
    scored: Sequence[EncodedMemory]
    everyone: Sequence[EncodedMemory]
    tools: Workshop
    probes: Probes
    reasked: Sequence[Armed] = ()  # the prompting attacks that a changed model is asked with
    known: Cache = field(default_factory=dict, repr=False)  # what the model as it is was asked, and answered
    progress: Progress = silent
    strict: bool = True  # False: a claim of a search that does not hold is noted in `doubts`, not raised
    doubts: list[str] = field(default_factory=list, init=False)
    answers: list[BestAnswer] = field(default_factory=list, init=False)
    findings: list[Finding] = field(default_factory=list, init=False)


def attack_once(task: Task, subject: Subject) -> None:
    """Run the attack; fills `task.answers` and `task.findings`."""
    attack = task.armed.attack
    if isinstance(attack, Searching):
        _search(task, attack, subject)
    elif isinstance(attack, Tampering):
        _tamper(task, attack, subject)
    else:
        raise UserError(f"attack {task.armed.name}: an attack of tier {attack.tier} should derive from Searching or Tampering.")


def _search(task: Task, attack: Searching, subject: Subject) -> None:
    """Ranks share the memories: what is found for one does not depend on the others. A sample of the lengths is read again.

    Lengths that count are looked for in every accepted answer of a question; findings are about the answer itself.
    """
    others = stand_ins(attack, task.scored)
    asked = [*task.scored, *(other for other, _ in others.values())]
    made = list(_made(task, "searching", lambda: attack.search(subject, my_share(asked), task.tools), (Answer, Finding)))
    of, place = {m.id: m for m in asked}, {m.id: i for i, m in enumerate(asked)}
    answers = of_all_ranks(Answer, [x for x in made if isinstance(x, Answer)])
    findings = [f for f in of_all_ranks(Finding, [x for x in made if isinstance(x, Finding)]) if f.memory not in others]
    told = {a.memory for a in answers} | {f.memory for f in findings if f.memory}
    if strange := sorted(told - of.keys()):
        raise UserError(
            f"attack {task.armed.name} answers about {', '.join(map(repr, strange[:5]))}, which it was not given; yield answers about the "
            'memories of the call (m.id), and a finding about the whole model under the memory "".'
        )
    answers.sort(key=lambda a: place[a.memory])
    task.findings += sorted(findings, key=lambda f: place.get(f.memory, -1))
    try:
        reread_claims(task.armed.name, attack, subject, answers, of, task.tools)
    except UserError as error:
        if task.strict:
            raise
        task.doubts.append(str(error))
    task.answers += with_whole_answers([_best(task, a, of[a.memory]) for a in answers], others)


def _best(task: Task, a: Answer, m: EncodedMemory) -> BestAnswer:
    """An answer as it is kept; what stands in its own prompt is copying, which counts as nothing."""
    attack = task.armed.attack
    given = tuple(a.ids) or task.tools.encode(a.prompt)
    copy = not m.memory.lists and copied(given, m.row[a.offset : a.offset + a.matched])
    return BestAnswer(
        a.memory,
        task.armed.name,
        a.variant,
        attack.access,
        attack.tier,
        a.start,
        a.offset,
        a.prompt,
        0 if copy else a.matched,
        a.horizon,
        a.fold,
    )


def _made(task: Task, doing: str, call: Callable[[], Iterable[Any]], kinds: tuple[type, ...]) -> Iterator[Any]:
    """What an attack gives, as it gives it, checked for its kind."""
    what = f"attack {task.armed.name}, {doing}"
    with stranger(what):
        items = call()
    for item in each(items, what):
        if not isinstance(item, kinds):
            raise UserError(f"{what}: expected {' or '.join(k.__name__ for k in kinds)}, got {type(item).__name__}.")
        yield item


def _tamper(task: Task, attack: Tampering, subject: Subject) -> None:
    if not task.scored:  # the worst case alone was asked for, and nobody survived
        return
    fold_of = folds(task.everyone)
    for fold in (0, 1) if attack.learns else (-1,):
        learnt = [m for m in task.everyone if m.role == "forget" and fold_of[m.id] == fold]
        rows = [Row(subject.with_bos(m.row), name=m.id).after(m.context, len(m.row)) for m in learnt]
        scored = [m for m in task.scored if fold_of[m.id] != fold]
        for changed in _made(task, "tampering", lambda rows=rows: attack.tamper(subject, rows, task.tools), (Changed, Finding)):
            if isinstance(changed, Finding):
                task.findings.append(replace(changed, fold=fold))
                continue
            task.progress(changed.dose if changed.step < 0 else f"{changed.dose} step {changed.step}".strip(), 0, 1)
            if changed.covered is not None and (reached := Finding("", "covered", changed.covered)) not in task.findings:
                task.findings.append(reached)
            _ask_again(task, changed, scored, fold, task.known if _unchanged(changed.subject, subject) else {})
            changed.subject.release()


def _unchanged(changed: Subject, subject: Subject) -> bool:
    """Whether both are the model of one folder with no weight in place of its own."""
    return changed.folder == subject.folder and changed.made_of is subject.made_of and not changed.state and not subject.state


def _ask_again(task: Task, changed: Changed, scored: Sequence[EncodedMemory], fold: int, known: Cache) -> None:
    if changed.only_opening:
        mine = my_share(scored)
        reader = Reader(changed.subject, task.tools.precision)
        lengths = read_lengths(reader, [opening_probe(m) for m in mine], {m.id: m for m in mine})
        of = {memory: length for memory, length in gathered([[m.id, n] for m, (n,) in zip(mine, lengths, strict=True)])}
        task.findings += [Finding(m.id, MATCHED, m.of_64(of[m.id]), fold, changed.dose, changed.step) for m in scored]
        return
    asked = ask_all(changed.subject, task.probes, [(a, scored) for a in task.reasked], task.tools.precision, cache=known).answers
    best: dict[tuple[str, str], BestAnswer] = {}
    for answer in asked:  # the best over the inner variants: one record per memory, dose and inner attack
        key = (answer.memory, answer.attack)
        if key not in best or answer.matched > best[key].matched:
            best[key] = answer
    name, attack, dose = task.armed.name, task.armed.attack, changed.dose
    for (_, inner), answer in best.items():
        mine = replace(answer, attack=name, access=attack.access, tier=attack.tier, fold=fold)
        task.answers.append(replace(mine, variant=f"{dose}/{inner}", dose=dose, inner=inner))
