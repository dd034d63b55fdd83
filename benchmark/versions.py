"""The versions of what makes results. Stage keys hold them; they are raised when code changes what a stage of a kind gives.

Rewording, renaming and moving code changes no key. `tests/benchmark/test_versions.py` notices when the code that makes a kind
of stage is another than it was, and asks for a higher version, or for proof that results are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from .sources import code, content_hash, digest, file_of, in_tree

VERSIONS = {"held": 1, "twin": 1, "method": 1, "battery": 1, "attack": 1, "checks": 1, "thresholds": 2, "quality": 1, "excerpts": 1}
READER = 1  # of how lengths are read: part of the names of the files in `.rows`
READING = "reader"  # its name beside the kinds

# What makes each: modules of `benchmark` with all they import, or parts of a module (`pipeline:Run.data`), or a folder of data.
_INJECTION = (
    "trainer", "stream", "losses", "corpus:pack", "memories", "method:History",
    "pipeline:Run._stream", "pipeline:Run._injection", "pipeline:Run.trainer",
)  # fmt: skip
_ATTACKS = ("memories", "sample", "answers", "attacking:Attacking.asked", "attacking:Attacking._survivors")
MADE_BY: dict[str, tuple[str, ...]] = {
    "held": _INJECTION,
    "twin": _INJECTION,
    "method": ("method", "corpus:pack", "memories", "pipeline:Run.data", "pipeline:Run.held_out", "pipeline:Run.trainer"),
    "battery": ("battery", *_ATTACKS, "attacking:Attacking.battery"),
    "attack": ("expensive", *_ATTACKS, "scoring", "attacking:Attacking.single", "attacking:Attacking.workshop"),
    "checks": ("checks", *_ATTACKS, "attacking:Attacking.checks"),
    "thresholds": ("scoring", "sample", "attacking:Attacking.thresholds"),
    "quality": ("quality", "quality_tasks/"),
    "excerpts": ("subject", "memories", "pipeline:Run.excerpt_stage"),
    READING: ("probing",),
}

# What says nothing about a result (messages, places, measurements of time), or only hands on what keys hold already.
NOTHING = (
    "errors",
    "lines",
    "limits",
    "fields",
    "written",
    "paths",
    "config",
    "plugins",
    "strangers",
    "guard",
    "precision",
    "metering",
    "progress",
    "sources",
    "versions",
)
_TRAINING = ("trainer", "training", "attention", "engine", "resume", "lora")
APART: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(MADE_BY, NOTHING),
    **dict.fromkeys(("battery", "checks", "quality", "excerpts", READING), (*NOTHING, *_TRAINING)),
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
            found[root] = content_hash([Path(__file__).parent / root])
    return found
