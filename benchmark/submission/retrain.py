"""The level `retrain`: the method is run again from the base, on this machine, and everything is made and compared anew.

It is the only level that runs the author's code, so it asks first. Answers and numbers are made by our code from the weights that come out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...leaderboard.reproduction import Reproduction, reproduction
from ..common.errors import UserError
from ..common.types import HELD, TWIN, Record
from .bundle import MODEL, sha256_of, weights_in
from .levels import Case, Finding, agreed
from .rerun import again, place
from .row import Row, entry_in, row_in, weights_of

WHAT = "the method, run again from the base"
SHOWN = 4


@dataclass(frozen=True)
class Made:
    """A row that was made again: what its models weigh, what they answered, and what follows."""

    row: Row
    theirs: Row
    found: Reproduction

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.row.suite.seeds

    @property
    def same_machine(self) -> bool:
        """Whether the held models came out as the author's did, to the bit: then this machine computes as that one."""
        return all(_sha(self.row, self.row.held(s)) == _sha(self.theirs, self.theirs.held(s)) for s in self.seeds)

    @property
    def same_weights(self) -> bool:
        return all(_model(self.row.manifest(s)) == _model(self.theirs.manifest(s)) for s in self.seeds)


def check(case: Case) -> Iterator[Finding]:
    """Ask, run, compare: weights, answers, then the numbers of the row."""
    if why := not_allowed(case):
        yield Finding(WHAT, False, why)
        return
    with place(case.options) as folder:
        try:
            row = again(case.bundle, case.suite, folder / "row", case.options)
            made = Made(row, row_in(case.bundle, case.suite), _against_entry(case, row))
        except UserError as error:
            yield Finding(WHAT, False, str(error))
            return
        yield Finding(WHAT, True, f"seeds {', '.join(map(str, made.seeds))}, in a process of its own")
        differs = "; ".join(made.found.surroundings)
        yield Finding("versions, machine and precision", None if differs else True, differs or "all as the entry tells")
        yield _weights(made)
        yield _answers(made, [HELD, TWIN], "answers of held model and twin", made.same_machine)
        yield _answers(made, [row.method], f"answers of {row.method}", made.same_weights and made.same_machine)
        yield from _values(made.found)


def not_allowed(case: Case) -> str:
    """Why the author's code is not run; "" where the verifier said that it may be."""
    told = case.bundle.info.method
    whose = (
        f"{len([n for n in case.bundle.info.files if n.startswith('method/')])} files of the author's"
        if told.file
        else "this installation's own"
    )
    question = (
        f"This runs the code of the method {told.name} ({whose}) on this machine, in a process without your environment's variables. "
        "It can still read what you can read and reach the network if you can. Run it?"
    )
    return "" if case.options.yes or case.options.ask(question) else "not run: say --yes once you have read the method's code"


def _against_entry(case: Case, row: Row) -> Reproduction:
    entry = case.bundle.entry
    said = {name: getattr(entry, name) for name in ("name", "track", "paper", "code", "date", "saw", "tuned_on")}
    files = {seed: file for seed, file in weights_of(row).items() if file.is_file()}
    mine, _ = entry_in(row, case.bundle.info.method, said, {seed: sha256_of(file) for seed, file in files.items()})
    return reproduction(entry, mine)


def _weights(made: Made) -> Finding:
    if made.same_weights:
        return Finding("weights", True, "identical, seed by seed")
    if made.same_machine:
        return Finding(
            "weights", False, "the held model is identical here, and what this code makes of it is another model than the author's"
        )
    return Finding(
        "weights", None, "not identical, and neither is the held model: this machine computes in another order than the author's"
    )


def _answers(made: Made, names: list[str], what: str, exact: bool) -> Finding:
    """Every length of these models, all attacks; equal is expected of identical models only."""
    pairs = [(mine, theirs) for n in names for s in made.seeds for mine, theirs in _pairs(made, n, s)]
    wrong = [
        f"{r.method}, seed {r.seed}, {r.memory}: {_name(r)} has {r.matched} tokens, and {now} here" for now, r in pairs if now != r.matched
    ]
    said = f"{len(pairs) - len(wrong)} of {len(pairs)} are equal"
    if exact:
        return agreed(what, wrong and [said, *wrong], said)
    return Finding(what, None, f"{said}; the models differ, so not all need to be")


def _pairs(made: Made, name: str, seed: int) -> Iterator[tuple[int, Record]]:
    mine = {_question(r): r.matched for r in made.row.attacking.records(made.row.model(name, seed))}
    for r in made.theirs.attacking.records(made.theirs.model(name, seed)):
        if (question := _question(r)) in mine:
            yield mine[question], r


def _name(r: Record) -> str:
    return f"{r.attack} {r.variant}".strip()


def _question(r: Record) -> tuple[object, ...]:
    return r.attack, r.variant, r.memory, r.fold, r.dose, r.inner


def _values(found: Reproduction) -> Iterator[Finding]:
    """The numbers by which rows are judged must lie within what is stated; of all others it is told how many do."""
    headline = [v for v in found.values if v.headline]
    known = [v for v in headline if v.standing != "unknown"]
    outside = [str(v) for v in headline if v.standing == "outside"]
    equal = sum(v.standing == "equal" for v in known)
    yield agreed("numbers of the row", outside, f"{len(known)} lie within the stated intervals, {equal} of them are equal")
    others = [v for v in found.values if not v.headline and v.standing != "unknown"]
    beyond = [str(v) for v in others if v.standing == "outside"]
    said = f"{len(others) - len(beyond)} of {len(others)} lie within the stated intervals"
    yield Finding("further numbers", None if beyond else True, "; ".join([said, *beyond[:SHOWN]]))


def _model(manifest: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """Hashes of a model's weights by part, and of how these are combined."""
    made = weights_in(manifest)
    return made, "" if [*made] == [""] else manifest["files"].get("subject.json", "")


def _sha(row: Row, stage) -> str:
    return row.store.manifest(stage)["files"].get(MODEL, "")
