"""Attacks a model that was made elsewhere: no injection, no roles, an optional reference model for comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..attack_tools.bases import Prompting, Tools
from ..battery.answers import BestAnswer
from ..battery.shared_pass import Probes, arm, ask_all
from ..common.errors import UserError
from ..common.progress import Progress, silent, within
from ..common.types import HORIZON, EncodedMemory
from ..models.bounds import positions, require_positions
from ..models.precision import described, resolved, supported
from ..models.subject import Subject, open_subject
from ..quality.vitals import SOURCE, doubts, ordinary_texts, vitals
from ..texts.memories import encode, load_memories
from ..texts.sets.named import is_named
from ..texts.usable import usable

OF_SUITES = ("fold", "extra", "dose", "inner")  # what says something only where a suite asks


@dataclass(frozen=True)
class Wanted:
    """What is to be attacked, and with what. The reference, or without one the model itself, judges how plausible prompts are."""

    model: str
    memories: Path
    attacks: Sequence[str]
    reference: str | None = None
    revision: str | None = None  # of the model
    row: int = 160  # tokens of a memory, at most
    precision: str = "auto"


def attack_model(wanted: Wanted, console: Console, progress: Progress = silent) -> pd.DataFrame:
    """One line per model, memory, attack and variant: the best matched length and the prompt that got it."""
    subjects = _subjects(wanted)
    encoded, said = _encoded(wanted, subjects)
    armed = arm({name.strip(): {} for name in wanted.attacks})
    if later := [a.name for a in armed if not isinstance(a.attack, Prompting)]:
        raise UserError(f"palimpsest attack asks prompting attacks only, not {', '.join(later)}; the others need a suite.")
    probes = Probes(Tools(subjects.get("reference", subjects["model"])))
    found = {a.name: len(probes.of(a, encoded)) for a in armed}
    count = sum(found.values())
    if not count:
        raise UserError(
            f"{', '.join(wanted.attacks)}: none of these attacks has a question about these memories "
            "(paraphrase, for one, needs paraphrases)."
        )
    config = subjects["model"].model.config
    console.print(f"{said}, {count:,} probes per model.", highlight=False)
    if empty := [name for name, many in found.items() if not many]:
        judge = "the reference" if wanted.reference else "the model itself, since there is no reference,"
        why = f"the memories bring no question for them, or {judge} finds all of them much less plausible than the openings"
        console.print(f"Not asked: {', '.join(empty)} ({why}).", highlight=False)
    console.print(described(wanted.precision, resolved(wanted.precision, config), config), highlight=False)
    _show_life(subjects, console)
    frames = []
    for name, subject in subjects.items():
        asking = within(f"asking the {name}", progress)
        out = ask_all(subject, probes, [(a, encoded) for a in armed], wanted.precision, asking)
        frames.append(_frame(out.answers, encoded).assign(model=name))
        subject.release()
    return pd.concat(frames, ignore_index=True)


def _subjects(wanted: Wanted) -> dict[str, Subject]:
    supported(wanted.precision)
    subjects = {"model": open_subject(wanted.model, wanted.revision)}
    if wanted.reference:
        subjects["reference"] = open_subject(wanted.reference)
        if subjects["reference"].tokenizer_hash != subjects["model"].tokenizer_hash:
            raise UserError(
                f"{wanted.model} and {wanted.reference} have different tokenizers; matched lengths in tokens cannot be compared."
            )
    return subjects


def _encoded(wanted: Wanted, subjects: Mapping[str, Subject]) -> tuple[list[EncodedMemory], str]:
    """The memories in rows as long as every model can read and every passage has, and how many of what length in words.

    A question may be shorter. Of a forget set, what makes no row of the length that is wanted is left out. Where memories have roles,
    those to forget are asked, and no others.
    """
    tokenizer, known = subjects["model"].tokenizer, load_memories(wanted.memories)
    memories = [m for m in known if m.role in ("", "forget")]
    if not memories:
        raise UserError(f"None of the {len(known)} memories of {wanted.memories} has the role forget; there is nothing to ask.")
    sizes = [(len(tokenizer(m.text, add_special_tokens=False)["input_ids"]), m.id) for m in memories if not m.is_question]
    shortest, who = min(sizes, default=(wanted.row, ""))
    lead = len(subjects["model"].with_bos(()))
    limits = [most for s in subjects.values() for config in s.configs if (most := positions(config)) is not None]
    length = min(wanted.row, shortest, *(most - lead for most in limits))
    for subject in subjects.values():
        require_positions(subject, length + lead, f"a row of {length}")
    left = ""
    if is_named(str(wanted.memories)):  # what of a public set does not fit is left out, as in a suite
        length = min(wanted.row, *(most - lead for most in limits)) if limits else wanted.row
        memories, out = usable(memories, tokenizer, length)
        left = f"; {len(out)} of the set left out, which make no such row or say what another says" if out else ""
    short = f" (as many as {who!r} has)" if length == shortest < wanted.row else ""
    whose = f" to forget (of {len(known)})" if len(memories) < len(known) else ""
    said = f"{len(memories)} memories{whose}, rows of {length} tokens{short}{left}"
    return [encode(m, tokenizer, length, "forget") for m in memories], said


def _frame(answers: Sequence[BestAnswer], encoded: Sequence[EncodedMemory]) -> pd.DataFrame:
    """`target` is how many tokens the memory's target has: 64, or those of a shorter answer."""
    frame = pd.DataFrame(map(vars, answers)).drop(columns=list(OF_SUITES))
    return frame.assign(target=frame.memory.map({m.id: len(m.target) for m in encoded}))


def _show_life(subjects: Mapping[str, Subject], console: Console) -> None:
    """Print what ordinary text costs each model, and a warning where short matches would not mean that something was forgotten."""
    texts = ordinary_texts()
    found = {name: vitals(subject, texts, name) for name, subject in subjects.items()}
    each = "; ".join(f"the {name} needs {v}" for name, v in found.items())
    console.print(f"Sign of life, on {SOURCE}: {each}; a uniform guess {found['model'].uniform:.2f} nats.", highlight=False)
    for doubt in doubts(found["model"], found.get("reference")):
        console.print(Text(f"Warning: {doubt}", style="yellow"))


def summary(answers: pd.DataFrame, reference: bool) -> Table:
    """Per attack: how many memories it was asked about, their mean best matched length, the share with 64 tokens or the whole answer.

    With a reference its lengths too, and the mean difference.
    """
    targets = answers.groupby("memory").target.first()
    all_of_it = f"all {HORIZON}" if (targets == HORIZON).all() else "whole"
    best = answers.groupby(["model", "attack", "memory"]).matched.max()
    worst = answers.groupby(["model", "memory"]).matched.max()
    table = Table(box=None, pad_edge=False)
    for column in ("attack", "memories", "matched tokens", all_of_it, *(("reference", "difference") if reference else ())):
        table.add_column(column, justify="left" if column == "attack" else "right")
    for attack in [*answers.attack.unique(), "worst case"]:
        pick = lambda m, a=attack: worst[m] if a == "worst case" else best[m][a]  # noqa: E731
        mine = pick("model")
        cells = [attack, str(len(mine)), f"{mine.mean():.1f}", f"{(mine >= targets.reindex(mine.index)).mean():.0%}"]
        if reference:
            theirs = pick("reference")
            cells += [f"{theirs.mean():.1f}", f"{(mine - theirs).mean():+.1f}"]
        table.add_row(*cells)
    return table
