"""Plug-ins that go wrong: each ends in one line that names the plug-in, what it was doing and the place, never in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from palimpsest.benchmark.attack import Tools, Workshop
from palimpsest.benchmark.battery.one_attack import Task, attack_once
from palimpsest.benchmark.battery.shared_pass import Probes, arm
from palimpsest.benchmark.common.errors import UserError
from palimpsest.benchmark.common.plugins import find
from palimpsest.benchmark.common.strangers import each, stranger
from palimpsest.benchmark.common.types import Row
from palimpsest.benchmark.training.batches import Term
from palimpsest.benchmark.training.recipe import Recipe
from palimpsest.benchmark.training.trainer import Trainer
from tests.conftest import Memorised

HEAD = """
import sys
from dataclasses import dataclass
from palimpsest.benchmark.method import Method
from palimpsest.benchmark.attack import Prompting, Searching, Tampering, Probe

"""
METHOD = (
    HEAD
    + """
@dataclass(frozen=True)
class Mine(Method):
    def unlearn(self, held, data, train):
        return held
"""
)


def written(folder: Path, text: str) -> str:
    (folder / "mine.py").write_text(text)
    return str(folder / "mine.py")


IMPORTS = {
    "exit": ("import sys\nsys.exit(0)\n", r"mine\.py cannot be imported: it asked the program to exit \(status 0\).*line 2"),
    "exception": ("x = {}['a']\n", r"mine\.py cannot be imported: KeyError: 'a' \(mine\.py, line 1\)"),
    "syntax": ("def f(:\n", r"mine\.py cannot be imported: SyntaxError"),
    "missing import": ("import no_such_thing\n", r"mine\.py cannot be imported: ModuleNotFoundError: .*no_such_thing"),
}


@pytest.mark.parametrize("case", IMPORTS)
def test_a_file_that_fails_at_import_is_named_with_the_line(case: str, tmp_path: Path) -> None:
    text, message = IMPORTS[case]
    with pytest.raises(UserError, match=message):
        find("method", written(tmp_path, text))


def test_fields_that_fail_are_named(tmp_path: Path) -> None:
    text = METHOD.replace("    def unlearn", "    x: int = 1\n    def __post_init__(self):\n        1 / (self.x - 1)\n    def unlearn")
    plugin = find("method", written(tmp_path, text))
    with pytest.raises(UserError, match=r"method mine: ZeroDivisionError: .* \(mine\.py, line \d+\)"):
        plugin.make({})


LOSSES: dict[str, tuple[Callable[..., Any], str]] = {
    "nothing": (lambda model, groups: None, "should return a dict of name -> Term.*NoneType"),
    "an empty dict": (lambda model, groups: {}, "at least one"),
    "a bare tensor": (lambda model, groups: {"nll": model(groups["text"].ids).logits.sum()}, "'nll': 'Tensor'"),
    "an unknown unit": (lambda model, groups: {"nll": term(model, groups, unit="words")}, "counts 'words' of 'text'; this batch has"),
    "an unknown group": (lambda model, groups: {"nll": term(model, groups, group="retain")}, "counts 'tokens' of 'retain'"),
    "many numbers": (lambda model, groups: {"nll": Term(model(groups["text"].ids).logits, "tokens", "text")}, "should hold one number"),
    "no gradient": (lambda model, groups: {"nll": Term(torch.zeros(()), "tokens", "text")}, "there is no gradient"),
    "not finite": (lambda model, groups: {"nll": term(model, groups, by=float("nan"))}, "not finite at step 0"),
}


def term(model: Any, groups: Any, unit: str = "tokens", group: str = "text", by: float = 1.0) -> Term:
    return Term(by * model(groups["text"].ids).logits.sum(), unit, group)


@pytest.mark.parametrize("case", LOSSES)
def test_a_loss_that_gives_something_else_is_told_what_was_expected(case: str, memorised: Memorised) -> None:
    loss, message = LOSSES[case]
    with pytest.raises(UserError, match=message):
        Trainer("fp32").fit(memorised.base, lambda step: {"text": [Row((1, 2, 3))]}, loss, Recipe(steps=1))


BATCHES = {
    "nothing": (None, "should be a dict of group -> rows"),
    "an empty group": ({"text": []}, "at least one row each"),
    "no rows": ({"text": [(1, 2)]}, r"holds \(1, 2\) in 'text'; expected a Row"),
    "an id beyond the vocabulary": ({"text": [Row((1, 9999), name="a")]}, "Row 'a' of 'text' at step 0 holds an id beyond"),
    "a negative id": ({"text": [Row((1, -1), name="a")]}, "holds an id beyond"),
}


@pytest.mark.parametrize("case", BATCHES)
def test_a_batch_of_something_else_is_refused(case: str, memorised: Memorised) -> None:
    batch, message = BATCHES[case]
    with pytest.raises(UserError, match=message):
        Trainer("fp32").fit(memorised.base, lambda step: batch, lambda model, groups: {}, Recipe(steps=1))  # type: ignore[arg-type, return-value]


PROBES = {
    "nothing": ("return None", "expected a generator or a list, got NoneType"),
    "an exception": ("yield memory.rows", r"writing probes for memory '.*': AttributeError: .*rows.* \(mine\.py, line \d+\)"),
    "an exit": ("sys.exit(0)", r"it asked the program to exit \(status 0\)"),
    "a text": ("yield 'x'", "should be Probe objects; it gave str"),
    "a foreign id": ("yield Probe(memory.id, (99999,), memory.row, 0)", "a prompt for memory .* holds 99999"),
    "a negative id": ("yield Probe(memory.id, (-5,), memory.row, 0)", "a prompt for memory .* holds -5"),
}


@pytest.mark.parametrize("case", PROBES)
def test_probes_that_are_none_are_refused_by_name(case: str, memorised: Memorised, tmp_path: Path) -> None:
    body, message = PROBES[case]
    text = HEAD + f"@dataclass(frozen=True)\nclass Mine(Prompting):\n    def probes(self, memory, tools):\n        {body}\n"
    (armed,) = arm({written(tmp_path, text): {}})
    with pytest.raises(UserError, match=f"attack mine.*{message}"):
        Probes(Tools(memorised.base)).of(armed, memorised.memories)


EXPENSIVE = {
    "a search that gives a text": (
        "Searching",
        "search(self, subject, memories, tools)",
        "yield 'x'",
        "expected Answer or Finding, got str",
    ),
    "a search that exits": ("Searching", "search(self, subject, memories, tools)", "sys.exit(0)", "it asked the program to exit"),
    "a search that gives nothing": ("Searching", "search(self, subject, memories, tools)", "return None", "got NoneType"),
    "a change that fails": ("Tampering", "tamper(self, subject, relearned, tools)", "yield 1 / 0", "ZeroDivisionError"),
    "a change that gives a number": (
        "Tampering",
        "tamper(self, subject, relearned, tools)",
        "yield 1",
        "expected Changed or Finding, got int",
    ),
}


@pytest.mark.parametrize("case", EXPENSIVE)
def test_an_expensive_attack_that_goes_wrong_is_named(case: str, memorised: Memorised, tmp_path: Path) -> None:
    base, signature, body, message = EXPENSIVE[case]
    text = HEAD + f"@dataclass(frozen=True)\nclass Mine({base}):\n    def {signature}:\n        {body}\n"
    (armed,) = arm({written(tmp_path, text): {}})
    tools = Workshop(memorised.base)
    task = Task(armed, memorised.memories, memorised.memories, tools, Probes(tools))
    with pytest.raises(UserError, match=f"attack mine.*{message}"):
        attack_once(task, memorised.subject)


def test_what_is_not_the_plugins_fault_passes_through() -> None:
    for error in (KeyboardInterrupt(), OSError(28, "No space left on device"), MemoryError(), RuntimeError("CUDA out of memory.")):
        with pytest.raises(type(error)), stranger("method mine"):
            raise error
    with pytest.raises(UserError, match=r"^method mine: as it was$"), stranger("method mine"):
        raise UserError("as it was")
    assert list(each(iter([1, 2]), "x")) == [1, 2]
