"""The versions of what makes results. Stage keys hold them; they are raised when code changes what a stage of a kind gives.

Rewording, renaming and moving code changes no key. `tests/benchmark/test_versions.py` notices when the code that makes a kind
of stage is another than it was, and asks for a higher version, or for proof that results are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from .sources import code, content_hash, digest, file_of, in_tree

VERSIONS = {
    "held": 1,
    "twin": 1,
    "method": 1,
    "battery": 2,
    "attack": 2,
    "checks": 1,
    "thresholds": 2,
    "quality": 1,
    "published": 3,
    "excerpts": 1,
}
READER = 1  # of how lengths are read: part of the names of the files in `.rows`
READING = "reader"  # its name beside the kinds

# What makes each: modules of `benchmark` with all they import, or parts of a module (`running.inputs:Inputs.data`), or a folder of data.
_INJECTION = (
    "training.trainer",
    "texts.stream",
    "training.losses",
    "texts.corpus:pack",
    "texts.memories",
    "method:History",
    "running.inputs:Inputs._stream",
    "running.models:Models._injection",
    "running.models:Models.trainer",
    "running.builders:injected",
)
_ATTACKS = (
    "texts.memories",
    "texts.subsets",
    "battery.answers",
    "running.who_is_asked:WhoIsAsked.asked",
    "running.attacking:Attacking._survivors",
)
MADE_BY: dict[str, tuple[str, ...]] = {
    "held": _INJECTION,
    "twin": _INJECTION,
    "method": (
        "method",
        "texts.corpus:pack",
        "texts.memories",
        "running.inputs:Inputs.data",
        "running.inputs:Inputs.held_out",
        "running.models:Models.trainer",
        "running.builders:unlearned",
    ),
    "battery": ("battery.shared_pass", *_ATTACKS, "running.attacking:Attacking.battery", "running.builders:shared_pass"),
    "attack": (
        "battery.one_attack",
        *_ATTACKS,
        "scoring.score",
        "running.attacking:Attacking.single",
        "running.attacking:Attacking.workshop",
        "running.builders:attacked",
    ),
    "checks": ("battery.checks", *_ATTACKS, "running.attacking:Attacking.checks", "running.builders:checked"),
    "thresholds": ("scoring.score", "texts.subsets", "running.attacking:Attacking.thresholds", "running.builders:thresholds"),
    "quality": ("quality.harness", "quality/tasks/", "running.builders:quality"),
    "published": ("reading.published", "texts.memories", "running.plan:Run.published_stage", "running.builders:published"),
    "excerpts": ("models.subject", "texts.memories", "running.plan:Run.excerpt_stage", "running.builders:side_by_side"),
    READING: ("reading.reader",),
}

# What says nothing about a result (messages, places, measurements of time), or only hands on what keys hold already.
NOTHING = (
    "common.errors",
    "common.lines",
    "common.limits",
    "common.budget",
    "common.fields",
    "common.written",
    "common.paths",
    "suites.config",
    "common.plugins",
    "common.strangers",
    "common.guard",
    "models.precision",
    "training.metering",
    "common.progress",
    "common.sources",
    "common.versions",
    "texts.sets.named",
)
_TRAINING = (
    "training.trainer",
    "training.loop",
    "training.recipe",
    "training.batches",
    "training.attention",
    "training.engine",
    "training.resume",
    "training.lora",
    "common.processes",
)
APART: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(MADE_BY, NOTHING),
    **dict.fromkeys(("battery", "checks", "quality", "published", "excerpts", READING), (*NOTHING, *_TRAINING)),
}


@cache
def modules(kind: str) -> Mapping[str, Path]:
    """Import name -> file, of all code that stages of a kind stand on, but for the parts of modules."""
    roots = [root for root in MADE_BY[kind] if ":" not in root and not root.endswith("/")]
    apart = [f"benchmark.{name}" for name in APART[kind]]
    return {name: file for root in roots for name, file in in_tree(f"benchmark.{root}", apart).items()}


def made_by(kind: str) -> dict[str, str]:
    """What makes stages of a kind -> the hash of its code, without docstrings and comments."""
    found = {name.partition(".benchmark.")[2]: digest(code(file)) for name, file in modules(kind).items()}
    for root in MADE_BY[kind]:
        module, _, part = root.partition(":")
        if part:
            found[root] = digest(code(file_of(f"benchmark.{module}"), part))
        elif root.endswith("/"):
            found[root] = content_hash([Path(__file__).parents[1] / root])
    return found
