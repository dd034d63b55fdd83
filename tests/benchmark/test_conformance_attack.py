"""`palimpsest check attack=…` tells good attacks from broken ones, rule by rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palimpsest.benchmark.attack import Searching
from palimpsest.benchmark.battery.shared_pass import arm
from palimpsest.benchmark.conformance.attacks import check_attack
from palimpsest.benchmark.running.plan import Run

RULES = ["answers", "range", "claims", "numbers", "deterministic", "independent", "reads the held model", "leaves the model alone"]

HEAD = """
import os
from dataclasses import dataclass
from palimpsest.benchmark.attack import Answer, Changed, Membership, Probe, Prompting, Searching, Tampering

def answer(m, matched):
    return Answer(m.id, "x", matched, len(m.target), "a prompt", m.opening)
"""
# What is wrong with each, the rule that has to say so, the base, and what the attack does.
BROKEN = {
    "it asks nothing": ("answers", "Prompting", "return []"),
    "more matched than could": ("range", "Searching", "return [answer(m, 65) for m in memories]"),
    "a length that the model does not give": ("claims", "Searching", "return [answer(m, 40) for m in memories]"),
    "a score that is not a number": ("numbers", "Membership", "return float('nan')"),
    "draws of its own": ("deterministic", "Searching", "return [answer(m, os.urandom(1)[0] % 60) for m in memories]"),
    "it counts the memories": ("independent", "Searching", "return [answer(m, i) for i, m in enumerate(memories)]"),
    "one generator for all": (
        "independent", "Searching", "draw = tools.rng('mine'); return [answer(m, int(draw.integers(60))) for m in memories]",
    ),
    "the same of every model": ("reads the held model", "Searching", "return [answer(m, 5) for m in memories]"),
    "a sign is turned in the model": (
        "leaves the model alone", "Searching", "next(subject.model.parameters()).data[0].neg_(); return [answer(m, 5) for m in memories]",
    ),
    "it changes the model that it is given": (
        "leaves the model alone", "Tampering",
        "next(subject.model.parameters()).data.mul_(1.001); return [Changed(subject.with_state({}), 'dose')]",
    ),
}  # fmt: skip
SIGNATURES = {
    "Prompting": "probes(self, memory, tools)", "Membership": "score(self, memory, tokens, reference)",
    "Searching": "search(self, subject, memories, tools)", "Tampering": "tamper(self, subject, relearned, tools)",
}  # fmt: skip


@pytest.fixture(scope="module")
def tried(taught: Run) -> Run:
    return Run(replace(taught.suite, attacks={"prefix": {}}), taught.store)


def broken(run: Run, attack: str, **fields: Any) -> list[str]:
    (armed,) = arm({attack: fields})
    checks = list(check_attack(run, armed))
    asked = {"reads the held model": not armed.attack.diagnostic, "claims": isinstance(armed.attack, Searching)}
    assert [c.name for c in checks] == [r for r in RULES if asked.get(r, True)]
    return [c.name for c in checks if not c.kept]


@pytest.mark.parametrize("attack", ["prefix", "formatting", "min_k", "beam_search", "quantise", "ablate_direction"])
def test_shipped_attacks_keep_the_rules(attack: str, tried: Run) -> None:
    shorter = {"widths": (4,), "length": 16} if attack == "beam_search" else {}
    assert broken(tried, attack, **shorter) == []


@pytest.mark.parametrize("what", BROKEN)
def test_the_rule_that_is_broken_is_named(what: str, tried: Run, tmp_path: Path) -> None:
    rule, base, body = BROKEN[what]
    file = tmp_path / "broken.py"
    file.write_text(
        f'{HEAD}\n@dataclass(frozen=True)\nclass Broken({base}):\n    """Broken."""\n\n    def {SIGNATURES[base]}:\n        {body}\n'
    )
    assert rule in broken(tried, f"{file}:Broken")
